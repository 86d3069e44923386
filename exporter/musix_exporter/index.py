"""Index: vectors as a FAISS file, the kind chosen by size, and what its search finds measured against the exact one."""

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from musix_exporter.files import Files
from musix_runtime.arrays import Floats, Rows
from musix_runtime.errors import GateError
from musix_runtime.index import Index
from musix_runtime.manifest import INDEXES, Search
from musix_trainer import progress, recipe

QUERIES = 256
CLUSTERS = 4  # times the root of the vectors: many small ones hold the nearest in fewer bytes than few large ones
PER_CLUSTER = 128  # vectors that the place of a cluster's centre is learned from
ROUNDS = 10  # of k-means
LEAST, SHARE = 4, 4  # clusters are searched at least, and at most one in so many: beyond it, exact search is no slower
STEP = 4  # a search that finds too little goes on with more clusters: by one in so many


def add(name: str, vectors: Floats, queries: Floats, at: int, settings: recipe.Index, files: Files) -> Search:
    """Write `vectors` (n, width) and their index; how well it finds the `at` nearest of the `queries` (m, width).

    Raises GateError when even the most clusters that may be searched do not reach the recipe's recall.
    """
    files.add_array(INDEXES[name].vectors, vectors)
    index = Index.exact(vectors)
    search = Search("flat", 0, 0, 1.0, at, len(queries))
    if vectors.size > settings.exact:
        wanted = [index.nearest(query, at)[0] for query in queries]
        index = _clustered(vectors)
        search = _searched(name, index, queries, wanted, settings.recall)
    faiss.write_index(index.faiss, str(files.place(name)))
    return search


def sample(rows: int) -> Rows:
    """Up to `QUERIES` row numbers, evenly spread over `rows`."""
    return np.unique(np.linspace(0, rows - 1, min(QUERIES, rows)).astype(np.int64))


def _clustered(vectors: Floats) -> Index:
    rows, width = vectors.shape
    clusters = 2 ** round(np.log2(CLUSTERS * np.sqrt(rows)))
    centres = faiss.IndexFlatIP(width)
    index = faiss.IndexIVFFlat(centres, width, clusters, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.max_points_per_centroid = ROUNDS, PER_CLUSTER
    with threadpool_limits(1):  # the centres' last bits depend on the number of threads
        index.train(np.ascontiguousarray(vectors[:: max(1, rows // (clusters * PER_CLUSTER))]))
        index.add(np.ascontiguousarray(vectors))
    return Index(vectors, index)


def _searched(name: str, index: Index, queries: Floats, wanted: list[Rows], floor: float) -> Search:
    """Search as many clusters as the recall takes."""
    clusters, at = index.faiss.nlist, len(wanted[0])
    index.faiss.nprobe = LEAST
    while True:
        found = [index.nearest(query, at)[0] for query in queries]
        recall = float(np.mean([np.isin(rows, few).mean() for rows, few in zip(wanted, found, strict=True)]))
        progress.say(f"{name}: {index.faiss.nprobe} of {clusters} clusters hold {recall:.1%} of the {at} nearest")
        if recall >= floor:
            return Search("ivf", clusters, index.faiss.nprobe, recall, at, len(queries))
        index.faiss.nprobe += max(1, index.faiss.nprobe // STEP)
        if index.faiss.nprobe > clusters // SHARE:
            raise GateError(f"{name}: expected at least {floor:.1%} of the {at} nearest, found {recall:.1%}")
