"""Content: which tracks are alike, by a 28-d vector of sound, genre, mood and artist popularity."""

from dataclasses import dataclass

import numpy as np

from musix_runtime.bundle.part import Array, Part
from musix_runtime.bundle.part_files import PartFiles
from musix_runtime.bundle.validation import Checks
from musix_runtime.models.arrays import Floats, RaggedRows, Rows
from musix_runtime.models.comparison import contribution_error
from musix_runtime.models.index import Index
from musix_runtime.models.index_file import index_file

CONTENT_DIM = 28  # 12 audio + 10 genre + 5 mood + 1 artist popularity


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


def _load(files: PartFiles) -> Content:
    return Content(files.index("index"))


def _validate(checks: Checks) -> None:
    checks.unit_vectors("vectors")


PART = Part(
    name="content",
    load=_load,
    validate=_validate,
    recommend_error=contribution_error("content"),
    arrays={"vectors.npy": Array("<f4", ("tracks", CONTENT_DIM))},
    indexes={"index.faiss": index_file("vectors.npy")},
)
