"""Content: which tracks are alike, by a 28-d vector of sound, genre, mood and artist popularity."""

from dataclasses import dataclass

import numpy as np

from musix_runtime.models.arrays import Floats, RaggedRows, Rows
from musix_runtime.models.index import Index


@dataclass(frozen=True)
class Content:
    """The index of the catalogue's content vectors, each of length 1: their product is the cosine."""

    index: Index

    @property
    def width(self) -> int:
        """Columns of a content vector."""
        return self.index.matrix.shape[1]

    def vectors(self, rows: Rows) -> Floats:
        """Content vectors of the catalogue rows. Shape (n, 28)."""
        return self.index.vectors(rows)

    def profiles(self, rows: RaggedRows) -> Floats:
        """The direction of what each user heard: the mean vector of the rows, of length 1; zeros for a user without
        any. Shape (batch, 28)."""
        found = rows.sums(self.vectors(rows.values))
        lengths = np.sqrt(np.einsum("bd,bd->b", found, found))
        found /= np.where(lengths > 0, lengths, 1)[:, None]
        return found

    def profile(self, rows: Rows) -> Floats:
        """The profile of one user. Shape (28,)."""
        return self.profiles(RaggedRows.of([rows]))[0]

    def nearest(self, query: Floats, count: int) -> tuple[Rows, Floats]:
        """The `count` tracks of greatest cosine with the query (28,): rows and cosines, best first."""
        return self.index.nearest(query, count)
