"""Index: vectors searched by inner product: all of them, or by their codes those of the clusters next to the query."""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from musix_runtime import kernels
from musix_runtime.arrays import Floats, Rows

KINDS = {"flat": faiss.IndexFlatIP, "ivf": faiss.IndexIVFScalarQuantizer}
OVER = 32  # bytes behind codes that may be read


def mapped(file: NDArray[np.uint8]) -> Any:
    """FAISS' view of the bytes of one of its files, which stay where they are. RuntimeError when it is none."""
    return faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(file), file.size))


@dataclass(frozen=True)
class Clusters:
    """Where the codes of vectors stand in the bytes of a FAISS file, by clusters.

    A step of a code is the 255th part of its column's span. The centres are coded, too: `centres`
    (clusters * width + 32), with spans of their own. `places` (clusters, 3): where each one's codes and rows start, and
    how many they are.
    """

    file: NDArray[np.uint8]
    centres: NDArray[np.uint8]
    centre_span: Floats
    places: NDArray[np.int64]
    span: Floats
    probes: int

    @classmethod
    def read(cls, index: faiss.IndexIVFScalarQuantizer, file: NDArray[np.uint8]) -> "Clusters":
        """What FAISS has found in the `mapped` file. ValueError when that is not of the one form that is read."""
        lists = faiss.downcast_InvertedLists(index.invlists)
        quantizer = faiss.downcast_index(index.quantizer)
        form = index.metric_type, type(quantizer), quantizer.ntotal, quantizer.d, type(lists)
        coding = index.sq.qtype, index.code_size, index.sq.trained.size(), index.by_residual
        good = form == (
            faiss.METRIC_INNER_PRODUCT,
            faiss.IndexFlatIP,
            index.nlist,
            index.d,
            faiss.ArrayInvertedLists,
        ) and coding == (faiss.ScalarQuantizer.QT_8bit, index.d, 2 * index.d, True)
        centres, span = quantizer.reconstruct_n(0, index.nlist), faiss.vector_to_array(index.sq.trained)[index.d :]
        if not (good and np.isfinite(centres).all() and np.isfinite(span).all()):
            raise ValueError("expected centres and codes of the one form that is read, found others")
        start, sizes = file.ctypes.data, [lists.list_size(i) for i in range(index.nlist)]
        places = [
            (int(lists.get_codes(i)) - start, int(lists.get_ids(i)) - start, size) if size else (0, 0, 0)
            for i, size in enumerate(sizes)
        ]
        return cls(file, *_coded(centres), np.array(places, np.int64), span.copy(), index.nprobe)


def _coded(vectors: Floats) -> tuple[NDArray[np.uint8], Floats]:
    low, span = vectors.min(axis=0), np.ptp(vectors, axis=0)
    codes = np.rint((vectors - low) / np.where(span > 0, span, 1) * 255).astype(np.uint8)
    return np.append(codes, np.zeros(OVER, np.uint8)), span


class Index:
    """Vectors (n, width), all of which are compared with a query, or those that their `clusters` find."""

    def __init__(self, matrix: Floats, clusters: Clusters | None = None) -> None:
        """Raises ValueError when the clusters do not hold every row once."""
        self.matrix = matrix
        self.clusters = clusters
        few: Any = (None, None, None, None, None, 0)
        if clusters:
            few = (
                clusters.centres,
                clusters.centre_span,
                clusters.places,
                clusters.span,
                clusters.file,
                clusters.probes,
            )
        self.kernel = kernels.Index(matrix, matrix.shape[1], *few)

    @classmethod
    def read(cls, matrix: Floats, file: NDArray[np.uint8]) -> "Index":
        """The index in the mapped bytes of a FAISS file, which stay where they are. RuntimeError when it is none, or
        ValueError when it is not of these vectors."""
        index = mapped(file)
        if (index.ntotal, index.d) != matrix.shape:
            raise ValueError(f"expected {matrix.shape}, found {(index.ntotal, index.d)}")
        if type(index) is KINDS["flat"]:
            return cls(matrix)
        if type(index) is not KINDS["ivf"]:
            raise ValueError(f"expected one of {', '.join(KINDS)}, found {type(index).__name__}")
        return cls(matrix, Clusters.read(index, file))

    def form(self) -> tuple[str, int, int]:
        """Kind, clusters and probes."""
        return ("ivf", len(self.clusters.places), self.clusters.probes) if self.clusters else ("flat", 0, 0)

    def __len__(self) -> int:
        return len(self.matrix)

    def vectors(self, places: NDArray[Any]) -> Floats:
        """The vectors at `places` (n,). Shape (n, width)."""
        return self.matrix[places]

    def nearest(self, query: Floats, count: int) -> tuple[Rows, Floats]:
        """Places of the `count` greatest products with `query` (width,), best first, and the products; fewer only
        where there are no more. Clusters that hold too few are joined by further ones."""
        count = min(count, len(self.matrix))
        places, products = np.empty(count, np.int64), np.empty(count, np.float32)
        found = self.kernel.nearest(query, places, products)
        return places[:found], products[:found]
