"""Index: FAISS searches vectors by inner product: all of them, or the inverted lists next to the query."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import ABSENT, Floats, Rows, gather

SPARE_LISTS = 8  # compared exactly, beside those to search
NPROBE_GROWTH = 4  # times as many lists are searched whenever those searched hold fewer vectors than are asked for
_FLOATS, _INTEGERS = faiss.cast_integer_to_float_ptr, faiss.cast_integer_to_idx_t_ptr  # pointers, cheaper than swig_ptr
KINDS = {"flat": faiss.IndexFlatIP, "ivf": faiss.IndexIVFFlat}


@dataclass(frozen=True, slots=True)
class Description:
    """What an index is, in FAISS' terms: its kind; of an `ivf` how many inverted lists it has and how many of them are
    searched, else zeros."""

    kind: Literal["flat", "ivf"]
    nlist: int = 0
    nprobe: int = 0


def mapped(file: NDArray[np.uint8]) -> Any:
    """FAISS' view of the bytes of one of its files, which stay where they are. RuntimeError when it is none."""
    return faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(file), file.size))


def describe(index: Any) -> Description:
    """Description of a FAISS index. ValueError when it is not of one of the two kinds that are read."""
    if type(index) is KINDS["flat"]:
        return Description("flat")
    if type(index) is not KINDS["ivf"]:
        raise ValueError(f"expected one of {', '.join(KINDS)}, found {type(index).__name__}")
    return Description("ivf", index.nlist, index.nprobe)


class Index:
    """Vectors (n, width), and the FAISS index that finds those with the greatest products with a query.

    FAISS is asked one query a call: so a query finds the same whichever others are asked beside it.
    """

    def __init__(self, matrix: Floats, searched: Any = None, file: NDArray[np.uint8] | None = None) -> None:
        """Without a `searched` FAISS index, all vectors are searched; `file` are the bytes that it stands on.

        Raises ValueError when an index does not hold every vector once.
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
        """The index in the mapped bytes of a FAISS file, which stay where they are. RuntimeError when it is none, or
        ValueError when it is not of these vectors."""
        return cls(matrix, mapped(file), file)

    def __len__(self) -> int:
        return len(self.matrix)

    def vectors(self, positions: NDArray[Any]) -> Floats:
        """The vectors at `positions` (n,); one beyond the ends is the end. Shape (n, width)."""
        return gather(self.matrix, positions)

    def nearest(self, query: Floats, count: int) -> tuple[Rows, Floats]:
        """Positions of the `count` greatest products with `query` (width,), best first, and the products; fewer only
        where there are no more."""
        positions, products = self.search(query[None], [count])
        found = positions[0] != ABSENT
        return positions[0, found], products[0, found]

    def search(self, queries: Floats, counts: Sequence[int]) -> tuple[Rows, Floats]:
        """Positions of the `counts` (batch,) greatest products with each of the `queries` (batch, width), best first,
        and the products; ABSENT behind them. Lists that hold too few are joined by further ones.

        Both of shape (batch, most), `most` being the largest count, but for what there is.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.matrix.shape[1] or len(counts) != len(queries):
            raise ValueError(f"expected a count and {self.matrix.shape[1]} columns a query, found {queries.shape}")
        counts = [min(count, len(self.matrix)) for count in counts]
        shape = len(queries), max(counts, default=0)
        positions, products = np.full(shape, ABSENT, np.int64), np.empty(shape, np.float32)
        steps = queries.strides[0], products.strides[0], positions.strides[0]
        addresses = queries.ctypes.data, products.ctypes.data, positions.ctypes.data
        lists = self._centroids.nearest(queries, self.description.nprobe) if self._centroids else None
        with _one_thread():
            for i, count in enumerate(counts):
                if count:
                    query, near, found = (each + i * step for each, step in zip(addresses, steps, strict=True))
                    pointers = _FLOATS(query), count, _FLOATS(near), _INTEGERS(found)
                    if lists is None:
                        self._index.search_c(1, *pointers, None)
                        continue
                    self._index.search_preassigned_c(1, *pointers[:2], *lists.of(i), *pointers[2:], False, None)
                    if positions[i, count - 1] == ABSENT:
                        self._search_wider(pointers, positions[i, :count])
        return positions, products

    def _search_wider(self, pointers: tuple[Any, ...], positions: Rows) -> None:
        """Search more and more lists, all at last, until all `positions` (count,) are found."""
        nprobe, nlist = self.description.nprobe, self.description.nlist
        while nprobe < nlist and positions[-1] == ABSENT:
            nprobe = min(nlist, nprobe * NPROBE_GROWTH)
            self._index.search_c(1, *pointers, faiss.SearchParametersIVF(nprobe=nprobe))


@dataclass(frozen=True)
class _Lists:
    """Numbers of inverted lists (batch, nprobe), and a product of each, which FAISS takes and does not need."""

    numbers: Rows
    products: Floats

    def of(self, query: int) -> tuple[Any, Any]:
        """FAISS' pointers to those of one query."""
        start = query * self.numbers.shape[1]
        return _INTEGERS(self.numbers.ctypes.data + 8 * start), _FLOATS(self.products.ctypes.data + 4 * start)


class _Centroids:
    """The centroids of inverted lists, compared with all queries of a batch at once: in half of FAISS' time."""

    def __init__(self, vectors: Floats) -> None:
        self._vectors, self._columns = vectors, np.ascontiguousarray(vectors.T)

    def nearest(self, queries: Floats, nprobe: int) -> _Lists:
        """The `nprobe` lists whose centroids have the greatest products with each query.

        A product of matrices ends in other bits in another batch: it only tells which few products are taken again, by
        themselves.
        """
        nlist = len(self._vectors)
        count = min(nlist, nprobe + SPARE_LISTS)
        roughly = np.argpartition(queries @ self._columns, nlist - count, axis=1)[:, nlist - count :]
        roughly.sort(axis=1)
        exact = np.einsum("bkd,bd->bk", self._vectors.take(roughly, axis=0), queries)
        best = np.negative(exact, out=exact).argsort(axis=1, kind="stable")[:, :nprobe]  # equal ones by number
        numbers = roughly.take(best + np.arange(0, roughly.size, count)[:, None])
        return _Lists(numbers, np.zeros(numbers.shape, np.float32))


@contextmanager
def _one_thread() -> Iterator[None]:
    """FAISS searches in the calling thread alone, for which the number is set; what its owner had set is put back.
    Threads of OpenMP would spin on the host's other cores, and be missing in a process that it forks."""
    allowed = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(allowed)


def _checked_centroids(index: Any) -> _Centroids:
    """ValueError unless the inverted lists are of the one form that is read, and hold every vector once."""
    lists, quantizer = faiss.downcast_InvertedLists(index.invlists), faiss.downcast_index(index.quantizer)
    centroids = type(quantizer), quantizer.metric_type, quantizer.ntotal, quantizer.d
    codes = type(lists), lists.nlist, lists.code_size, index.code_size, index.by_residual
    expected = faiss.IndexFlatIP, faiss.METRIC_INNER_PRODUCT, index.nlist, index.d
    if centroids != expected or codes != (faiss.ArrayInvertedLists, index.nlist, 4 * index.d, 4 * index.d, False):
        raise ValueError("expected centroids and inverted lists of the one form that is read, found others")
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
