"""Content: which tracks are alike, by a 28-d vector of sound, genre, mood and artist popularity."""

from dataclasses import dataclass

import faiss
import numpy as np

from musix_runtime.arrays import Floats, Rows, unit


@dataclass(frozen=True)
class Content:
    """The index of the catalogue's content vectors, each of length 1."""

    index: faiss.Index

    def vectors(self, rows: Rows) -> Floats:
        """Content vectors of the catalogue rows. Shape (n, 28)."""
        return np.asarray(self.index.reconstruct_batch(np.ascontiguousarray(rows, np.int64)), np.float32)

    def profile(self, rows: Rows) -> Floats:
        """The direction of what was heard: the mean vector of the rows, of length 1. Shape (28,)."""
        return unit(self.vectors(rows).mean(axis=0))

    def nearest(self, query: Floats, count: int) -> tuple[Rows, Floats]:
        """The `count` tracks of greatest cosine with the query (28,): rows and cosines, best first."""
        cosines, rows = self.index.search(query[None], min(count, self.index.ntotal))
        found = rows[0] >= 0
        return rows[0][found], cosines[0][found]
