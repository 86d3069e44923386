"""Index: vectors as a FAISS index of a kind chosen by size, and the measured recall of its search."""

from typing import Any

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from musix_exporter.bundle_writer import PartWriter
from musix_runtime.bundle.manifest import IndexInfo
from musix_runtime.errors import GateError
from musix_runtime.models.arrays import Floats, Rows
from musix_runtime.models.index import Index
from musix_trainer import progress
from musix_trainer.recipe import Recipe

QUERIES = 256
NLIST_FACTOR = 8  # times the root of the vectors: many short lists hold the nearest in fewer vectors than few long ones
PER_LIST = 64  # vectors that a list's centroid is learned from
KMEANS_ITERATIONS = 10
MIN_NPROBE = 4
MAX_PROBE_SHARE = 4  # at most one list in so many is searched: exact search is no slower then
NPROBE_GROWTH = 4  # while the recall is too low, more lists are searched: by one in so many


def add(name: str, array: str, vectors: Floats, queries: Floats, recipe: Recipe, writer: PartWriter) -> IndexInfo:
    """Write `vectors` (n, width) as `array`.npy and their index as `name`.faiss, and measure its recall.

    Recall is the share of the exact nearest of the `queries` (m, width) that are found, as many as the retriever asks
    for. Raises GateError when even the most lists that may be searched do not reach the recipe's recall.
    """
    at, settings, file = recipe.ranker.candidates, recipe.index, f"{writer.part}/{name}.faiss"
    writer.add_array(array, vectors)
    if vectors.size > settings.exact:
        index = _inverted_lists(vectors)
        recall = _tune_nprobe(file, vectors, index, queries, at, settings.recall)
    else:
        index, recall = _flat(vectors), 1.0
    writer.add_bytes(f"{name}.faiss", faiss.serialize_index(index).tobytes())
    kind = Index(vectors, index).description
    info = IndexInfo(kind.kind, kind.nlist, kind.nprobe, recall, at, len(queries))
    writer.bundle.indexes[file] = info
    return info


def sample(rows: int) -> Rows:
    """Up to `QUERIES` row numbers, evenly spread over `rows`."""
    return np.unique(np.linspace(0, rows - 1, min(QUERIES, rows)).astype(np.int64))


def _flat(vectors: Floats) -> faiss.IndexFlatIP:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    return index


def _inverted_lists(vectors: Floats) -> faiss.IndexIVFFlat:
    """Lists of alike vectors, kept as they are."""
    rows, width = vectors.shape
    nlist = 2 ** round(np.log2(NLIST_FACTOR * np.sqrt(rows)))
    with threadpool_limits(1):  # the centroids' last bits depend on the number of threads
        centroids, nearest = _clustered(vectors, nlist)
        index = faiss.IndexIVFFlat(_flat(centroids), width, nlist, faiss.METRIC_INNER_PRODUCT)
        index.is_trained, index.nprobe = True, MIN_NPROBE
        given = np.ascontiguousarray(vectors), np.arange(rows), nearest  # which must outlive the call
        index.add_core(rows, *map(faiss.swig_ptr, given))
    return index


def _clustered(vectors: Floats, count: int) -> tuple[Floats, Rows]:
    """Centroids (count, width) of as many clusters, and the one that each vector is nearest to (n,).

    A centroid points to the mean of its vectors and is as long as they are (root mean square): by a query's products
    with such, lists that hold the greatest products are found sooner than by those with means or with directions.
    """
    learned = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], count, faiss.METRIC_INNER_PRODUCT
    )
    learned.cp.niter, learned.cp.max_points_per_centroid = KMEANS_ITERATIONS, PER_LIST
    learned.train(np.ascontiguousarray(vectors[:: max(1, len(vectors) // (count * PER_LIST))]))
    nearest = np.ascontiguousarray(learned.quantizer.search(np.ascontiguousarray(vectors), 1)[1][:, 0])
    sums = np.zeros((count, vectors.shape[1]))
    np.add.at(sums, nearest, vectors)
    lengths = np.sqrt(np.bincount(nearest, (vectors.astype(np.float64) ** 2).sum(axis=1), count))
    lengths /= np.sqrt(np.maximum(np.bincount(nearest, minlength=count), 1))
    norms = np.linalg.norm(sums, axis=1)
    return np.asarray(sums * (lengths / np.where(norms > 0, norms, 1))[:, None], np.float32), nearest


def _tune_nprobe(name: str, vectors: Floats, index: Any, queries: Floats, at: int, floor: float) -> float:
    """Let the index search as many lists as the recall takes, which is given back."""
    exact = Index(vectors)
    wanted = [exact.nearest(query, at)[0] for query in queries]
    while True:
        searched = Index(vectors, index)
        found = [searched.nearest(query, at)[0] for query in queries]
        recall = float(np.mean([np.isin(rows, few).mean() for rows, few in zip(wanted, found, strict=True)]))
        progress.say(f"{name}: {index.nprobe} of {index.nlist} lists hold {recall:.1%} of the {at} nearest")
        if recall >= floor:
            return recall
        index.nprobe += max(1, index.nprobe // NPROBE_GROWTH)
        if index.nprobe > index.nlist // MAX_PROBE_SHARE:
            raise GateError(f"{name}: expected at least {floor:.1%} of the {at} nearest, found {recall:.1%}")
