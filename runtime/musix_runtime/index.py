"""Index: vectors searched by inner product: all of them, or those of the clusters next to the query."""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from musix_runtime.arrays import Floats, Rows

KINDS = {"flat": faiss.IndexFlatIP, "ivf": faiss.IndexIVFFlat}
WIDER = 4  # times as many clusters, whenever those searched hold fewer vectors than were asked for


@dataclass(frozen=True)
class Index:
    """Vectors (n, width), and a FAISS index of one of the `KINDS` that finds them."""

    matrix: Floats
    faiss: Any

    @classmethod
    def exact(cls, matrix: Floats) -> "Index":
        """An index that compares with all of the vectors."""
        index = faiss.IndexFlatIP(matrix.shape[1])
        index.add(np.ascontiguousarray(matrix, np.float32))
        return cls(matrix, index)

    @classmethod
    def read(cls, matrix: Floats, view: NDArray[np.uint8]) -> "Index":
        """The index in the mapped bytes of a FAISS file, which stay where they are. RuntimeError when it is none."""
        index = faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(view), view.size))
        faiss.add_to_referenced_objects(index, view)  # the index reads from the view for life
        return cls(matrix, index)

    def form(self) -> tuple[str, int, int, int, int]:
        """Kind, vectors, width, clusters and probes; an unknown kind is the name of its class."""
        index = self.faiss
        kind = next((kind for kind, form in KINDS.items() if type(index) is form), type(index).__name__)
        clusters, probes = (index.nlist, index.nprobe) if kind == "ivf" else (0, 0)
        return kind, index.ntotal, index.d, clusters, probes

    def complete(self) -> bool:
        """Whether every row is in the index once, and its centres and lists are of the one form that is read."""
        index = self.faiss
        if type(index) is not faiss.IndexIVFFlat:
            return True
        centres, lists = faiss.downcast_index(index.quantizer), faiss.downcast_InvertedLists(index.invlists)
        found = (index.metric_type, type(centres), centres.ntotal, centres.d, type(lists))
        wanted = (faiss.METRIC_INNER_PRODUCT, faiss.IndexFlatIP, index.nlist, index.d, faiss.ArrayInvertedLists)
        return found == wanted and bool((np.sort(self._rows()) == np.arange(index.ntotal)).all())

    def _rows(self) -> Rows:
        """The rows in the clusters, one cluster after the other, as many as they say they hold."""
        lists = self.faiss.invlists
        sizes = [lists.list_size(i) for i in range(self.faiss.nlist)]
        if sum(sizes) != self.faiss.ntotal:
            return np.full(self.faiss.ntotal, -1, np.int64)
        held = [faiss.rev_swig_ptr(lists.get_ids(i), size).copy() for i, size in enumerate(sizes) if size]
        return np.concatenate(held) if held else np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.matrix)

    def vectors(self, places: NDArray[Any]) -> Floats:
        """The vectors at `places` (n,). Shape (n, width)."""
        return self.matrix[places]

    def nearest(self, query: Floats, count: int) -> tuple[Rows, Floats]:
        """Places of the `count` greatest products with `query` (width,), best first, and the products; fewer only
        where there are no more. Clusters that hold too few are joined by further ones.

        FAISS works in the calling thread alone: from 10,000 vectors on it would split even one search over threads, ten
        times slower, and with other last bits on other hosts. The setting is OpenMP's for this thread; it is put back.
        """
        count = min(count, len(self))
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            (products,), (places,) = self.faiss.search(query[None], count)
            if count and places[-1] < 0:
                products, places = self._wider(query, count)
        finally:
            faiss.omp_set_num_threads(threads)
        return places, products

    def _wider(self, query: Floats, count: int) -> tuple[Floats, Rows]:
        _, _, _, clusters, probes = self.form()
        places = np.full(count, -1)
        products = np.empty(count, np.float32)
        while places[-1] < 0 and probes < clusters:
            probes *= WIDER
            wider = faiss.SearchParametersIVF(nprobe=probes)
            (products,), (places,) = self.faiss.search(query[None], count, params=wider)
        return products[places >= 0], places[places >= 0]  # a vector with NaN is never found
