"""Content: which tracks are alike, by a 28-d vector of sound, genre, mood and artist popularity."""

from dataclasses import dataclass

from musix_runtime.arrays import Floats, Rows, unit
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
        return unit(self.vectors(rows).mean(axis=0))

    def nearest(self, query: Floats, count: int) -> tuple[Rows, Floats]:
        """The `count` tracks of greatest cosine with the query (28,): rows and cosines, best first."""
        return self.index.nearest(query, count)
