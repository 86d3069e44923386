"""Export of vectors with a FAISS index, whose kind depends on their size, and the measured recall of its search."""

from typing import Any

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from musix_exporter.bundle_writer import PartWriter
from musix_runtime.bundle.manifest import MAX_LISTS, IndexInfo
from musix_runtime.models.arrays import Floats, Rows
from musix_runtime.models.index import Index
from musix_trainer import progress
from musix_trainer.recipe import Recipe

N_QUERIES = 256
# nlist is about this factor times the square root of the number of vectors. With many short lists, the nearest vectors
# are found in fewer vectors than with few long lists.
NLIST_FACTOR = 8
TRAINING_VECTORS_PER_LIST = 64
KMEANS_ITERATIONS = 10
MIN_NPROBE = 4
MAX_PROBE_FRACTION = 1 / 4  # of the lists: an exact search takes no longer than searching more
NPROBE_GROWTH = 1 / 4  # of nprobe, which grows until the recall is high enough


def add(name: str, array: str, vectors: Floats, queries: Floats, recipe: Recipe, writer: PartWriter) -> IndexInfo:
    """Write `vectors` (n, width) as `array`.npy and their index as `name`.faiss, and measure its recall.

    Recall is the mean share of the exact nearest vectors that the index finds for the `queries` (m, width), among as
    many as the retriever searches for. The index searches all vectors where they are few, or `MAX_PROBE_FRACTION` of
    the lists does not reach the recipe's recall.
    """
    at, settings, file = recipe.ranker.candidates, recipe.index, f"{writer.part}/{name}.faiss"
    writer.add_array(array, vectors)
    index, recall = _flat(vectors), 1.0
    if vectors.size > settings.exact:
        clustered = _inverted_lists(vectors)
        found = _tune_nprobe(file, vectors, clustered, queries, at, settings.recall)
        if found is not None:
            index, recall = clustered, found
    writer.add_bytes(f"{name}.faiss", faiss.serialize_index(index).tobytes())
    kind = Index(vectors, index).description
    info = IndexInfo(kind.kind, kind.nlist, kind.nprobe, recall, at, len(queries))
    writer.bundle.indexes[file] = info
    return info


def sample(rows: int) -> Rows:
    """Return up to `N_QUERIES` row numbers below `rows`, evenly spaced."""
    return np.unique(np.linspace(0, rows - 1, min(N_QUERIES, rows)).astype(np.int64))


def _flat(vectors: Floats) -> faiss.IndexFlatIP:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    return index


def _inverted_lists(vectors: Floats) -> faiss.IndexIVFFlat:
    """Return an index with inverted lists, which hold the vectors unchanged."""
    rows, width = vectors.shape
    nlist = min(2 ** round(np.log2(NLIST_FACTOR * np.sqrt(rows))), MAX_LISTS)
    with threadpool_limits(1):  # the last bits of the centroids depend on the number of threads
        centroids, nearest = _cluster(vectors, nlist)
        index = faiss.IndexIVFFlat(_flat(centroids), width, nlist, faiss.METRIC_INNER_PRODUCT)
        index.is_trained, index.nprobe = True, MIN_NPROBE
        arguments = np.ascontiguousarray(vectors), np.arange(rows), nearest  # must live until the call returns
        index.add_core(rows, *map(faiss.swig_ptr, arguments))
    return index


def _cluster(vectors: Floats, count: int) -> tuple[Floats, Rows]:
    """Return `count` centroids (count, width), and the number of the nearest centroid of each vector (n,).

    A centroid has the direction of the mean of its vectors, and their root mean square as its length. With such
    centroids the lists of the largest inner products are found with a smaller nprobe than with means or unit vectors.
    """
    trained = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], count, faiss.METRIC_INNER_PRODUCT
    )
    trained.cp.niter, trained.cp.max_points_per_centroid = KMEANS_ITERATIONS, TRAINING_VECTORS_PER_LIST
    trained.train(np.ascontiguousarray(vectors[:: max(1, len(vectors) // (count * TRAINING_VECTORS_PER_LIST))]))
    nearest = np.ascontiguousarray(trained.quantizer.search(np.ascontiguousarray(vectors), 1)[1][:, 0])
    sums = np.zeros((count, vectors.shape[1]))
    np.add.at(sums, nearest, vectors)
    lengths = np.sqrt(np.bincount(nearest, (vectors.astype(np.float64) ** 2).sum(axis=1), count))
    lengths /= np.sqrt(np.maximum(np.bincount(nearest, minlength=count), 1))
    norms = np.linalg.norm(sums, axis=1)
    return np.asarray(sums * (lengths / np.where(norms > 0, norms, 1))[:, None], np.float32), nearest


def _tune_nprobe(name: str, vectors: Floats, index: Any, queries: Floats, at: int, floor: float) -> float | None:
    """Raise the `nprobe` of the index until its recall is at least `floor`, and return the recall; None if too many
    lists would have to be searched."""
    exact = Index(vectors)
    expected = [exact.nearest(query, at)[0] for query in queries]
    while True:
        approximate = Index(vectors, index)
        results = [approximate.nearest(query, at)[0] for query in queries]
        recall = float(np.mean([np.isin(rows, found).mean() for rows, found in zip(expected, results, strict=True)]))
        progress.say(f"{name}: {index.nprobe} of {index.nlist} lists hold {recall:.1%} of the {at} nearest")
        if recall >= floor:
            return recall
        index.nprobe += max(1, int(index.nprobe * NPROBE_GROWTH))
        if index.nprobe > int(index.nlist * MAX_PROBE_FRACTION):
            progress.say(f"{name}: all vectors are searched, as that takes no longer than more lists")
            return None
