"""Index: the vectors of one kind, searched by inner product: one by one, or only the clusters next to the query."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from musix_runtime.arrays import Floats, Rows

KINDS = {"flat": faiss.IndexFlatIP, "ivf": faiss.IndexIVFFlat}
PROBES_MORE = 4  # times as many clusters, whenever those searched hold fewer vectors than were asked for


@contextmanager
def _calling_thread() -> Iterator[None]:
    """FAISS works in the calling thread alone: from 10,000 vectors on it would split even one search over threads, ten
    times slower, and with other last bits on other hosts. The setting is OpenMP's for this thread; it is put back."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


@dataclass(frozen=True)
class Index:
    """A FAISS index of one of the `KINDS`, and its vectors. It works in the calling thread."""

    faiss: Any

    @classmethod
    def exact(cls, vectors: Floats) -> "Index":
        """A flat index over `vectors` (n, width), which are copied."""
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(np.ascontiguousarray(vectors, np.float32))
        return cls(index)

    @classmethod
    def read(cls, view: NDArray[np.uint8]) -> "Index":
        """The index in the mapped bytes of a FAISS file, which stay where they are. RuntimeError when it is none."""
        index = faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(view), view.size))
        faiss.add_to_referenced_objects(index, view)  # the index reads from the view for life
        if type(index) is faiss.IndexIVFFlat:
            if index.direct_map.type != faiss.DirectMap.NoMap:
                raise RuntimeError("a direct map in the file")
            index.make_direct_map(True)  # from a row to its place; checks that every row is one of this index
        return cls(index)

    def form(self) -> tuple[str, int, int, int, int]:
        """Kind, vectors, width, clusters and probes; an unknown kind is the name of its class."""
        index = self.faiss
        kind = next((kind for kind, form in KINDS.items() if type(index) is form), type(index).__name__)
        clusters, probes = (index.nlist, index.nprobe) if kind == "ivf" else (0, 0)
        return kind, index.ntotal, index.d, clusters, probes

    def complete(self) -> bool:
        """Whether every row is in the index once, and the clusters' centres are as many and as wide as they must be."""
        index = self.faiss
        if type(index) is not faiss.IndexIVFFlat:
            return True
        centres = faiss.downcast_index(index.quantizer)
        held = sum(index.invlists.list_size(i) for i in range(index.nlist))
        return (
            type(centres) is faiss.IndexFlatIP
            and (centres.ntotal, centres.d) == (index.nlist, index.d)
            and held == index.ntotal
            and bool((faiss.vector_to_array(index.direct_map.array) >= 0).all())
        )

    def __len__(self) -> int:
        return int(self.faiss.ntotal)

    @cached_property
    def _matrix(self) -> Floats | None:
        """All vectors in place; None where they lie cluster by cluster."""
        if not isinstance(self.faiss, faiss.IndexFlat) or not len(self):
            return None
        size = len(self) * self.faiss.d
        return faiss.rev_swig_ptr(self.faiss.get_xb(), size).reshape(len(self), self.faiss.d)

    def vectors(self, places: NDArray[Any]) -> Floats:
        """The vectors at `places` (n,). Shape (n, width)."""
        if self._matrix is not None:
            return self._matrix[places]
        with _calling_thread():
            return np.asarray(self.faiss.reconstruct_batch(np.ascontiguousarray(places, np.int64)), np.float32)

    def nearest(self, query: Floats, count: int) -> tuple[Rows, Floats]:
        """Places of the `count` greatest products with `query` (width,), best first, and the products; fewer only
        where there are no more. Clusters that hold too few are joined by further ones."""
        count = min(count, len(self))
        with _calling_thread():
            (products,), (places,) = self.faiss.search(query[None], count)
            probes = getattr(self.faiss, "nprobe", 0)
            while count and places[-1] < 0:
                probes *= PROBES_MORE
                wider = faiss.SearchParametersIVF(nprobe=probes)
                (products,), (places,) = self.faiss.search(query[None], count, params=wider)
        return places, products
