"""Content: which tracks are alike, by a 28-d vector of sound, genre, mood and artist popularity."""

from dataclasses import dataclass

import numpy as np

from musix_runtime import kernels
from musix_runtime.arrays import Floats, Rows
from musix_runtime.index import Index


@dataclass(frozen=True)
class Content:
    """The index of the catalogue's content vectors, each of length 1: their product is the cosine."""

    index: Index

    def vectors(self, rows: Rows) -> Floats:
        """Content vectors of the catalogue rows. Shape (n, 28)."""
        return self.index.vectors(rows)

    def profile(self, rows: Rows) -> Floats:
        """The direction of what was heard: the mean vector of the rows, of length 1. Shape (28,)."""
        found = np.empty(self.index.matrix.shape[1], np.float32)
        kernels.profile(self.index.matrix, rows, found)
        return found

    def nearest(self, query: Floats, count: int) -> tuple[Rows, Floats]:
        """The `count` tracks of greatest cosine with the query (28,): rows and cosines, best first."""
        return self.index.nearest(query, count)
