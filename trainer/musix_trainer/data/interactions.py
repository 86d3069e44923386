"""Interactions table: which listener played which recording, how often and when."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from musix_runtime.bundle.manifest import MAX_HISTORY
from musix_runtime.errors import TableError
from musix_runtime.models.catalog import strip_uri
from musix_trainer import array_store
from musix_trainer.data.tables import Column, Table, check
from musix_trainer.data.tracks import Tracks

SCHEMA = [
    Column("user_id", "text"),
    Column("track_id", "text"),
    Column("plays", "number", 0, optional=True),
    Column("timestamp", "time", optional=True),
]


NEW_LISTENER = "listener without plays before the split"


@dataclass(frozen=True)
class Interactions:
    """Interactions: one entry for each pair of listener and recording, in the order of both.

    `names` are the listeners' ids, sorted; `listener` and `row` are the numbers of listener and recording; `last` is
    the time of the last play in seconds since 1970, 0 everywhere when the table has no times. The last `playlists` of
    the listeners are playlists of another table: they teach which tracks belong together, and are known to no server.
    """

    names: list[str]
    listener: NDArray[np.int64]
    row: NDArray[np.int64]
    plays: NDArray[np.float64]
    last: NDArray[np.int64]
    playlists: int = 0

    def __len__(self) -> int:
        return len(self.row)

    def save(self, path: Path) -> None:
        """Write the entries into a new folder."""
        arrays = {"names": np.array([name.encode() for name in self.names]), "playlists": np.array(self.playlists)}
        array_store.save(path, vars(self) | arrays)

    @classmethod
    def load(cls, path: Path) -> "Interactions":
        """Read interactions that `save` wrote."""
        arrays = array_store.load(path)
        names = [name.decode() for name in arrays["names"].tolist()]
        return cls(**arrays | {"names": names, "playlists": int(arrays["playlists"])})

    def select(self, mask: NDArray[np.bool_]) -> "Interactions":
        """Return the entries where `mask` (len(self),) is True; listeners keep their numbers."""
        return replace(
            self, listener=self.listener[mask], row=self.row[mask], plays=self.plays[mask], last=self.last[mask]
        )

    @property
    def listeners(self) -> int:
        """Return the number of listeners that are no playlists."""
        return len(self.names) - self.playlists

    def without_playlists(self) -> "Interactions":
        """Return the entries of the listeners that are no playlists, and these listeners alone."""
        kept = replace(self, names=self.names[: self.listeners], playlists=0)
        return kept.select(self.listener < self.listeners)

    def with_playlists(self, playlists: "Interactions") -> "Interactions":
        """Return these listeners and, behind them, those of another table as playlists; times of playlists are 0."""
        return Interactions(
            self.names + playlists.names,
            np.concatenate([self.listener, playlists.listener + len(self.names)]),
            np.concatenate([self.row, playlists.row]),
            np.concatenate([self.plays, playlists.plays]),
            np.concatenate([self.last, np.zeros_like(playlists.last)]),
            len(playlists.names),
        )


def read_interactions(source: Table, catalogue: Tracks, before: int | None = None) -> Interactions:
    """Check the table and return its interactions with recordings of the catalogue. A row without plays is one play.

    With a time `before` (seconds since 1970), at which the interactions will be split, without what happened since then
    to pairs that were there before, and without listeners who were not.
    Raises TableError.
    """
    check(source, SCHEMA, "user_id")
    columns = source.frame.columns
    if "plays" not in columns and "timestamp" not in columns:
        raise TableError(f"{source.name}: expected a column plays or timestamp, found only {', '.join(columns)}")
    if before is not None and "timestamp" not in columns:
        raise TableError(f"{source.name}: expected a column timestamp, as the recipe splits by time, found none")
    plays = pl.col("plays").fill_null(1.0) if "plays" in columns else pl.lit(1.0)
    last = pl.col("timestamp").fill_null(0) if "timestamp" in columns else pl.lit(0, pl.Int64)
    source.frame = in_catalogue(source.frame.with_columns(plays=plays, timestamp=last), catalogue)
    keep_in_catalogue(source)
    source.keep(pl.col("plays") > 0, "no plays")
    if before is not None:
        earlier, first = pl.col("timestamp") < before, pl.col("timestamp").min()
        source.keep(first.over("user_id") < before, NEW_LISTENER, f"have a {NEW_LISTENER}", "user_id")
        source.keep(earlier | (first.over("user_id", "row") >= before), "heard again since the split")
    pairs = source.frame.group_by("user_id", "row").agg(pl.col("plays").sum(), pl.col("timestamp").max())
    newest = pl.struct("timestamp", "plays").rank("ordinal", descending=True).over("user_id") <= MAX_HISTORY
    kept = pairs.sort("user_id", "row").filter(newest)
    if kept.height < pairs.height:
        source.notes[f"pairs dropped: beyond the newest {MAX_HISTORY:,} of a listener"] = pairs.height - kept.height
    pairs = kept
    names = pairs["user_id"].unique().sort().to_list()
    source.notes |= {"listeners": len(names), "pairs of listener and recording": pairs.height}
    source.notes["times"] = "yes" if "timestamp" in columns else "none: all time ranges are the same"
    return Interactions(
        names,
        (pairs["user_id"].rank("dense").cast(pl.Int64) - 1).to_numpy(),
        pairs["row"].cast(pl.Int64).to_numpy(),
        pairs["plays"].to_numpy(),
        pairs["timestamp"].to_numpy(),
    )


def in_catalogue(frame: pl.DataFrame, catalogue: Tracks) -> pl.DataFrame:
    """Return the frame with a column `row`: the catalogue row of each track_id, or null."""
    stripped = frame.with_columns(pl.col("track_id").map_elements(strip_uri, return_dtype=pl.String))
    return stripped.join(catalogue.ids, on="track_id", how="left", maintain_order="left")


def keep_in_catalogue(source: Table) -> None:
    """Drop the rows that `in_catalogue` gave no row. Raises TableError when no row is left."""
    words = "name a track that is not in the catalogue"
    source.keep(pl.col("row").is_not_null(), "track not in the catalogue", words)
