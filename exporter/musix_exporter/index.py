"""Index: vectors as a FAISS file, the kind chosen by size, and what its search finds measured against the exact one."""

from dataclasses import replace

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from musix_exporter.files import Files
from musix_runtime.arrays import Floats, Rows
from musix_runtime.errors import GateError
from musix_runtime.index import Clusters, Index, mapped
from musix_runtime.manifest import INDEXES, Search
from musix_trainer import progress, recipe

QUERIES = 256
CLUSTERS = 8  # times the root of the vectors: many small ones hold the nearest in fewer bytes than few large ones
PER_CLUSTER = 64  # vectors that the place of a cluster's centre is learned from
CODED = 100_000  # vectors, about, that the span of the codes is learned from
ROUNDS = 10  # of k-means
LEAST, SHARE = 4, 4  # clusters are searched at least, and at most one in so many: beyond it, exact search is no slower
STEP = 4  # a search that finds too little goes on with more clusters: by one in so many


def add(name: str, vectors: Floats, queries: Floats, at: int, settings: recipe.Index, files: Files) -> Search:
    """Write `vectors` (n, width) and their index; how well it finds the `at` nearest of the `queries` (m, width).

    Raises GateError when even the most clusters that may be searched do not reach the recipe's recall.
    """
    files.add_array(INDEXES[name].vectors, vectors)
    index, search = _flat(vectors), Search("flat", 0, 0, 1.0, at, len(queries))
    if vectors.size > settings.exact:
        index = _clustered(vectors)
        index.nprobe = LEAST
        file = faiss.serialize_index(index)
        search = _searched(name, vectors, Clusters.read(mapped(file), file), queries, at, settings.recall)
        index.nprobe = search.probes
    files.add_bytes(name, faiss.serialize_index(index).tobytes())
    return search


def sample(rows: int) -> Rows:
    """Up to `QUERIES` row numbers, evenly spread over `rows`."""
    return np.unique(np.linspace(0, rows - 1, min(QUERIES, rows)).astype(np.int64))


def _flat(vectors: Floats) -> faiss.IndexFlatIP:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    return index


def _clustered(vectors: Floats) -> faiss.IndexIVFScalarQuantizer:
    """Clusters of alike vectors, each coded, in 8 bits a column, by its difference from the centre.

    A centre points to the mean of its vectors and is as long as they are (root mean square): by a query's products with
    such, clusters that hold the greatest products are found sooner than by those with means or with directions.
    """
    rows, width = vectors.shape
    clusters = 2 ** round(np.log2(CLUSTERS * np.sqrt(rows)))
    with threadpool_limits(1):  # the centres' last bits depend on the number of threads
        learned = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, clusters, faiss.METRIC_INNER_PRODUCT)
        learned.cp.niter, learned.cp.max_points_per_centroid = ROUNDS, PER_CLUSTER
        learned.train(np.ascontiguousarray(vectors[:: max(1, rows // (clusters * PER_CLUSTER))]))
        near = learned.quantizer.search(np.ascontiguousarray(vectors), 1)[1][:, 0]
        centres = _centres(vectors, near, clusters)
        index = faiss.IndexIVFScalarQuantizer(
            _flat(centres), width, clusters, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        some = slice(None, None, max(1, rows // CODED))
        index.sq.train(np.ascontiguousarray(vectors[some] - centres[near[some]]))
        index.is_trained = True
        numbers = np.arange(rows)
        index.add_core(rows, *map(faiss.swig_ptr, (np.ascontiguousarray(vectors), numbers, near)))
    return index


def _centres(vectors: Floats, near: Rows, clusters: int) -> Floats:
    """Of the clusters that the vectors are `near` (n,). Shape (clusters, width)."""
    sums = np.zeros((clusters, vectors.shape[1]))
    np.add.at(sums, near, vectors)
    lengths = np.sqrt(np.bincount(near, (vectors.astype(np.float64) ** 2).sum(axis=1), clusters))
    counts = np.bincount(near, minlength=clusters)
    lengths /= np.sqrt(np.maximum(counts, 1))
    norms = np.linalg.norm(sums, axis=1)
    return np.asarray(sums * (lengths / np.where(norms > 0, norms, 1))[:, None], np.float32)


def _searched(name: str, vectors: Floats, clusters: Clusters, queries: Floats, at: int, floor: float) -> Search:
    """Search as many of the clusters as the recall takes."""
    wanted = [Index(vectors).nearest(query, at)[0] for query in queries]
    while True:
        probes, count = clusters.probes, len(clusters.places)
        index = Index(vectors, clusters)
        found = [index.nearest(query, at)[0] for query in queries]
        recall = float(np.mean([np.isin(rows, few).mean() for rows, few in zip(wanted, found, strict=True)]))
        progress.say(f"{name}: {probes} of {count} clusters hold {recall:.1%} of the {at} nearest")
        if recall >= floor:
            return Search("ivf", count, probes, recall, at, len(queries))
        clusters = replace(clusters, probes=probes + max(1, probes // STEP))
        if clusters.probes > count // SHARE:
            raise GateError(f"{name}: expected at least {floor:.1%} of the {at} nearest, found {recall:.1%}")
