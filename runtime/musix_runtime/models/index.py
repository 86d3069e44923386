"""Nearest-neighbour search by inner product with FAISS: over all vectors, or over the inverted lists near the query."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import ABSENT, Floats, Rows, gather

ONE_THREAD = 1 << 18  # numbers of a matrix whose product with a vector BLAS computes in the calling thread
NPROBE_GROWTH = 4  # factor by which nprobe grows while the lists hold fewer vectors than requested
_FLOATS, _INTEGERS = faiss.cast_integer_to_float_ptr, faiss.cast_integer_to_idx_t_ptr  # cheaper than swig_ptr
BLOCK_ROWS = 65_536  # of the matrix
GROUPED = 16  # values of a group, of which the largest is taken first
EQUAL = 1e-5  # relative difference of products that are taken for equal, as their last bits depend on the block
Mask = NDArray[np.bool_]
KINDS = {"flat": faiss.IndexFlatIP, "ivf": faiss.IndexIVFFlat}


@dataclass(frozen=True, slots=True)
class Description:
    """The kind of an index and, for an `ivf`, the number of its inverted lists and how many of them are searched."""

    kind: Literal["flat", "ivf"]
    nlist: int = 0
    nprobe: int = 0


def mapped(file: NDArray[np.uint8]) -> Any:
    """Return FAISS' view of the bytes of an index file, without a copy. Raises RuntimeError for other bytes."""
    return faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(file), file.size))


def describe(index: Any) -> Description:
    """Return the description of a FAISS index. Raises ValueError for an unsupported kind."""
    if type(index) is KINDS["flat"]:
        return Description("flat")
    if type(index) is not KINDS["ivf"]:
        raise ValueError(f"expected one of {', '.join(KINDS)}, found {type(index).__name__}")
    return Description("ivf", index.nlist, index.nprobe)


class Index:
    """Vectors (n, width), and the FAISS index that finds those with the largest products with a query.

    Each call of FAISS has one query, so the results of a query do not depend on the others of its batch.
    """

    def __init__(self, matrix: Floats, searched: Any = None, file: NDArray[np.uint8] | None = None) -> None:
        """Take the FAISS index `searched`, or make one over all vectors. `file` are the mapped bytes of the index.

        Raises ValueError if the index does not hold every vector once.
        """
        if searched is None:
            searched = faiss.IndexFlatIP(matrix.shape[1])
            searched.add(np.ascontiguousarray(matrix))
        if (searched.ntotal, searched.d) != matrix.shape or searched.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError(f"expected {matrix.shape} by inner product, found {(searched.ntotal, searched.d)}")
        self.matrix = matrix
        self.description = describe(searched)
        self._index, self._file = searched, file
        self._centroids = _checked_centroids(searched) if self.description.kind == "ivf" else None

    @classmethod
    def read(cls, matrix: Floats, file: NDArray[np.uint8]) -> "Index":
        """Return the index in the mapped bytes of a FAISS file, without a copy.

        Raises RuntimeError for other bytes, and ValueError for an index of other vectors.
        """
        return cls(matrix, mapped(file), file)

    def __len__(self) -> int:
        return len(self.matrix)

    def vectors(self, positions: NDArray[Any]) -> Floats:
        """Return the vectors at `positions` (n,), which are clipped to the range. Shape (n, width)."""
        return gather(self.matrix, positions)

    def nearest(self, query: Floats, count: int, mask: Mask | None = None) -> tuple[Rows, Floats]:
        """Return the positions of the `count` largest products with `query` (width,), best first, and the products;
        fewer only if there are fewer vectors. With `mask` (n,), only those vectors are compared."""
        positions, products = self.search(query[None], [count], [mask])
        found = positions[0] != ABSENT
        return positions[0, found], products[0, found]

    def recall(self, query: Floats, count: int) -> float:
        """Return the share of the exact `count` nearest vectors of `query` (width,) that a search finds.

        It computes every product, in blocks, so that other threads run in between. Equal products count as found.
        """
        _, found = self.nearest(query, count)
        if not len(found):
            return 1.0
        blocks = (self.matrix[start : start + BLOCK_ROWS] @ query for start in range(0, len(self), BLOCK_ROWS))
        exact = np.concatenate([np.partition(block, -min(count, len(block)))[-count:] for block in blocks])
        bound = np.partition(exact, -len(found))[-len(found)]
        return float(np.mean(found >= bound - EQUAL * max(abs(float(bound)), 1)))

    def search(self, queries: Floats, counts: Sequence[int], masks: Sequence[Mask | None] = ()) -> tuple[Rows, Floats]:
        """Return the positions of the `counts` (batch,) largest products with each of the `queries` (batch, width),
        best first, and the products. Unused positions are ABSENT, their products very small. If the lists hold too few
        vectors, more are searched. A query that has a mask (n,) is only compared with those vectors.

        Both have the shape (batch, largest count), where a count is at most the number of vectors; at least one column.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.matrix.shape[1] or len(counts) != len(queries):
            raise ValueError(f"expected a count and {self.matrix.shape[1]} columns a query, found {queries.shape}")
        counts = [min(count, len(self.matrix)) for count in counts]
        parameters: dict[int, Any] = {}
        for i, mask in enumerate(masks):
            if mask is not None:
                counts[i], parameters[i] = min(counts[i], int(mask.sum())), self._parameters(mask)
        shape = len(queries), max([1, *counts])
        positions, products = np.full(shape, ABSENT, np.int64), np.full(shape, -np.inf, np.float32)
        steps = queries.strides[0], products.strides[0], positions.strides[0]
        addresses = queries.ctypes.data, products.ctypes.data, positions.ctypes.data
        centroids = self._centroids
        lists = centroids.nearest(queries, self.description.nprobe) if centroids else None
        with _one_thread():
            for i, count in enumerate(counts):
                if count:
                    query, near, found = (each + i * step for each, step in zip(addresses, steps, strict=True))
                    pointers = _FLOATS(query), count, _FLOATS(near), _INTEGERS(found)
                    given = parameters.get(i)
                    if centroids is None or lists is None:
                        self._index.search_c(1, *pointers, given)
                        continue
                    self._index.search_preassigned_c(1, *pointers[:2], *lists.of(i), *pointers[2:], False, given)
                    if positions[i, count - 1] == ABSENT:
                        self._search_wider(centroids.ranked(queries[i]), pointers, positions[i, :count], given)
        return positions, products

    def _parameters(self, mask: Mask) -> Any:
        """Return FAISS' parameters of a search among the vectors of the mask (n,)."""
        selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        if self.description.kind == "flat":
            return faiss.SearchParameters(sel=selector)
        return faiss.SearchParametersIVF(sel=selector, nprobe=self.description.nprobe)

    def _search_wider(self, ranked: "_Lists", pointers: tuple[Any, ...], positions: Rows, given: Any) -> None:
        """Search more and more of the `ranked` lists, in the end all, until all `positions` (count,) are filled."""
        nlist, nprobe = self.description.nlist, self.description.nprobe
        parameters = given or faiss.SearchParametersIVF()
        while nprobe < nlist and positions[-1] == ABSENT:
            nprobe = parameters.nprobe = min(nlist, nprobe * NPROBE_GROWTH)
            self._index.search_preassigned_c(1, *pointers[:2], *ranked.of(0), *pointers[2:], False, parameters)


@dataclass(frozen=True)
class _Lists:
    """Numbers of inverted lists (batch, nprobe), and their products, which FAISS requires but does not use."""

    numbers: Rows
    products: Floats

    @classmethod
    def of_numbers(cls, numbers: Rows) -> "_Lists":
        """Return the lists with these numbers."""
        return cls(np.ascontiguousarray(numbers), np.zeros(numbers.shape, np.float32))

    def of(self, query: int) -> tuple[Any, Any]:
        """Return FAISS' pointers to the numbers and products of one query."""
        start = query * self.numbers.shape[1]
        return _INTEGERS(self.numbers.ctypes.data + 8 * start), _FLOATS(self.products.ctypes.data + 4 * start)


class _Centroids:
    """The centroids of inverted lists. Their products are computed for one query after another, so that they are the
    same in any batch, and in parts that are too small for BLAS to use several threads."""

    def __init__(self, vectors: Floats) -> None:
        self._count, width = vectors.shape
        step = max(ONE_THREAD // width, 1)
        self._parts = [np.ascontiguousarray(vectors[at : at + step].T) for at in range(0, self._count, step)]

    def nearest(self, queries: Floats, nprobe: int) -> _Lists:
        """Return the `nprobe` lists whose centroids have the largest products with each query."""
        return _Lists.of_numbers(largest(self._products(queries), nprobe))

    def ranked(self, query: Floats) -> _Lists:
        """Return all lists for a query (width,), those with the largest products first."""
        return _Lists.of_numbers(self._products(query[None]).argsort(axis=1)[:, ::-1])

    def _products(self, queries: Floats) -> Floats:
        products = np.empty((len(queries), self._count), np.float32)
        for row, query in zip(products, queries, strict=True):
            start = 0
            for part in self._parts:
                start += np.dot(query, part, out=row[start : start + part.shape[1]]).size
        return products


def largest(values: Floats, count: int) -> Rows:
    """Return the positions of the `count` largest values of each row (n, m), in any order. Shape (n, count).

    The largest values of interleaved groups tell a bound that few values reach: a fifth of the time of a partition.
    """
    width = values.shape[1] // GROUPED
    if width < count:
        return np.argpartition(values, -count, axis=1)[:, -count:]
    groups = values[:, : width * GROUPED].reshape(len(values), GROUPED, width).max(axis=1)
    bounds = np.partition(groups, -count, axis=1)[:, -count]
    positions = np.empty((len(values), count), np.int64)
    for i, (row, bound) in enumerate(zip(values, bounds, strict=True)):
        (found,) = (~(row < bound)).nonzero()  # NaN counts as largest
        positions[i] = found if len(found) == count else found[row[found].argpartition(-count)[-count:]]
    return positions


@contextmanager
def _one_thread() -> Iterator[None]:
    """Make FAISS search in the calling thread only, and restore the number of threads afterwards.

    Threads of OpenMP would spin on the other cores of the host, and would be missing in a forked process."""
    allowed = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(allowed)


def _checked_centroids(index: Any) -> _Centroids:
    """Return the centroids. Raises ValueError unless the inverted lists have the supported form and hold every vector
    once."""
    lists, quantizer = faiss.downcast_InvertedLists(index.invlists), faiss.downcast_index(index.quantizer)
    centroids = type(quantizer), quantizer.metric_type, quantizer.ntotal, quantizer.d
    codes = type(lists), lists.nlist, lists.code_size, index.code_size, index.by_residual
    expected = faiss.IndexFlatIP, faiss.METRIC_INNER_PRODUCT, index.nlist, index.d
    if centroids != expected or codes != (faiss.ArrayInvertedLists, index.nlist, 4 * index.d, 4 * index.d, False):
        raise ValueError("expected centroids and inverted lists of the supported form, found others")
    vectors = quantizer.reconstruct_n(0, index.nlist)
    if not np.isfinite(vectors).all():
        raise ValueError("expected finite centroids, found others")
    if not 0 < index.nprobe <= index.nlist:
        raise ValueError(f"expected 1 to {index.nlist:,} lists to search, found {index.nprobe:,}")
    sizes = [lists.list_size(i) for i in range(index.nlist)]
    if sum(sizes) != index.ntotal:
        raise ValueError(f"expected every row once, found {sum(sizes):,} of {index.ntotal:,}")
    parts = [faiss.rev_swig_ptr(lists.get_ids(i), size) for i, size in enumerate(sizes) if size]
    rows = np.concatenate(parts) if parts else np.empty(0, np.int64)
    if rows.min(initial=0) < 0 or rows.max(initial=-1) >= index.ntotal or not _all_different(rows):
        raise ValueError("expected every row once, found one twice or beyond")
    return _Centroids(vectors)


def _all_different(rows: Rows) -> bool:
    seen = np.zeros(len(rows), bool)
    seen[rows] = True
    return bool(seen.all())
