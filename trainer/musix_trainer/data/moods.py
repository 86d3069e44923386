"""Moods table: which share of four moods people heard in a track."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from musix_runtime.errors import TableError
from musix_runtime.models.arrays import Floats
from musix_runtime.models.mood import MOODS
from musix_trainer import array_store
from musix_trainer.data import split
from musix_trainer.data.interactions import in_catalogue, keep_in_catalogue
from musix_trainer.data.tables import Column, Table, check
from musix_trainer.data.tracks import Tracks

PERCEIVED = MOODS[:4]  # focus is what music is used for: nobody hears it
SPLITS = {"train": split.TRAIN, "validation": split.VALIDATION, "test": split.TEST}
SCHEMA = [
    Column("track_id", "text"),
    *(Column(mood, "number", 0, 1) for mood in PERCEIVED),
    Column("source", "text"),
    Column("split", "text"),
]
MIN_ROWS = 20  # of each split


@dataclass(frozen=True)
class Moods:
    """Perceived moods, one entry for each recording and source.

    `row` (n,) is the catalogue row, `shares` (n, 4) sum to 1, `source` (n,) numbers `sources`, and `part` (n,) is
    TRAIN, VALIDATION or TEST; no artist is in two parts.
    """

    sources: list[str]
    row: NDArray[np.int64]
    shares: Floats
    source: NDArray[np.int64]
    part: NDArray[np.int8]

    def test(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the rows of the test split, and their largest mood: True in one column of (n, 4)."""
        entries = self.part == split.TEST
        return self.row[entries], np.eye(len(PERCEIVED), dtype=bool)[self.shares[entries].argmax(axis=1)]

    def save(self, path: Path) -> None:
        """Write the entries into a new folder."""
        array_store.save(path, vars(self) | {"sources": np.array([name.encode() for name in self.sources])})

    @classmethod
    def load(cls, path: Path) -> "Moods":
        """Read moods that `save` wrote."""
        arrays = array_store.load(path)
        return cls(**arrays | {"sources": [name.decode() for name in arrays["sources"].tolist()]})


def read_moods(source: Table, catalogue: Tracks) -> Moods:
    """Check the table and return its moods of recordings of the catalogue. Raises TableError.

    Rows for training are dropped if their artist is also in another split, and rows for validation if it is in test.
    """
    check(source, SCHEMA, "track_id")
    unknown = sorted(set(source.frame["split"]) - set(SPLITS))
    if unknown:
        raise TableError(f"{source.name}: split: expected {', '.join(SPLITS)}, found {', '.join(unknown[:5])}")
    source.frame = in_catalogue(source.frame, catalogue)
    keep_in_catalogue(source)
    source.keep(pl.sum_horizontal(PERCEIVED) > 0, "no mood above 0")
    artists = pl.Series(catalogue.primary_artists())
    source.frame = source.frame.with_columns(
        artist=artists[source.frame["row"].cast(pl.Int64)],
        part=pl.col("split").replace_strict(SPLITS, return_dtype=pl.Int8),
    )
    source.keep(pl.col("part") == pl.col("part").max().over("artist"), "artist in a later split too")
    frame = source.frame.group_by("row", "source", "part").agg(pl.col(PERCEIVED).mean()).sort("row", "source")
    counts = {name: int((frame["part"] == part).sum()) for name, part in SPLITS.items()}
    source.notes |= dict(frame["source"].value_counts().sort("source").iter_rows()) | counts
    if min(counts.values()) < MIN_ROWS:
        raise TableError(
            f"{source.name}: split: expected at least {MIN_ROWS} recordings of the catalogue in each of"
            f" {', '.join(SPLITS)}, found {', '.join(f'{count} in {name}' for name, count in counts.items())}"
        )
    sources = frame["source"].unique().sort().to_list()
    shares = frame.select(PERCEIVED).to_numpy()
    return Moods(
        sources,
        frame["row"].cast(pl.Int64).to_numpy(),
        (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32),
        (frame["source"].rank("dense").cast(pl.Int64) - 1).to_numpy(),
        frame["part"].to_numpy(),
    )
