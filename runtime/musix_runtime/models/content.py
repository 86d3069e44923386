"""Content: similarity of tracks, by 28-d vectors of audio features, genre, mood and artist popularity."""

from dataclasses import dataclass

import numpy as np

from musix_runtime.bundle.part import Array, Part
from musix_runtime.bundle.part_files import PartFiles
from musix_runtime.bundle.validation import Checks
from musix_runtime.errors import LayoutError
from musix_runtime.models.arrays import Floats, RaggedRows, Rows
from musix_runtime.models.comparison import contribution_error
from musix_runtime.models.index import Index, Mask
from musix_runtime.models.index_file import index_file

CONTENT_DIM = 28  # 12 audio + 10 genre + 5 mood + 1 artist popularity
MAX_PRODUCT = 1.01  # of two vectors, whose lengths are checked to be almost 1


@dataclass(frozen=True)
class Content:
    """The index of the content vectors of the catalogue. They have length 1, so inner products are cosines."""

    index: Index

    @property
    def width(self) -> int:
        """The number of columns of a content vector."""
        return self.index.matrix.shape[1]

    def vectors(self, rows: Rows) -> Floats:
        """Return the content vectors of catalogue rows. Shape (n, 28)."""
        return self.index.vectors(rows)

    def profiles(self, rows: RaggedRows) -> Floats:
        """Return the mean vector of each user's rows, scaled to length 1; zeros without rows. Shape (batch, 28)."""
        profiles = rows.sums(self.vectors(rows.values))
        lengths = np.sqrt(np.einsum("bd,bd->b", profiles, profiles))
        profiles /= np.where(lengths > 0, lengths, 1)[:, None]
        return profiles

    def profile(self, rows: Rows) -> Floats:
        """Return the profile of one user. Shape (28,)."""
        return self.profiles(RaggedRows.of([rows]))[0]

    def cosines(self, vector: Floats, rows: Rows) -> Floats:
        """Return the cosines of a track's vector (28,) and those of rows (n,). Shape (n,). Raises LayoutError when they
        are none, because the mapped bytes have changed."""
        cosines = self.vectors(rows) @ vector
        if not (np.abs(cosines) < MAX_PRODUCT).all():
            raise LayoutError(f"content/vectors.npy: expected vectors of length 1, found cosines {cosines.tolist()}")
        return cosines

    def nearest(self, query: Floats, count: int, mask: Mask | None = None) -> tuple[Rows, Floats]:
        """Return rows and cosines of the `count` tracks that are nearest to the query (28,), nearest first; with `mask`
        (tracks,), of those tracks only."""
        return self.index.nearest(query, count, mask)


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
