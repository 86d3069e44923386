"""Impressions table: tracks that listeners were shown, and whether they played, saved, clicked or skipped them."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from musix_runtime.errors import TableError
from musix_trainer.data.interactions import Interactions, in_catalogue, keep_in_catalogue
from musix_trainer.data.tables import Column, Table, check
from musix_trainer.data.tracks import Tracks

IS_POSITIVE = {"played": True, "saved": True, "clicked": True, "skipped": False}
SCHEMA = [
    Column("user_id", "text"),
    Column("track_id", "text"),
    Column("timestamp", "time"),
    Column("event", "text"),
    Column("position", "number", 0, optional=True),
]


@dataclass(frozen=True)
class Impressions:
    """Impressions in the order of listener and time; every field has an entry for each.

    `listener` and `row` number listener and recording, `hour` is in UTC, `positive` is False for a skip.
    """

    listener: NDArray[np.int64]
    row: NDArray[np.int64]
    hour: NDArray[np.float32]
    positive: NDArray[np.bool_]

    def without(self, data: Interactions) -> "Impressions":
        """Return the impressions of pairs that are not in `data`, on which collab is trained or measured."""
        size = int(max(self.row.max(initial=0), data.row.max(initial=0))) + 1
        mask = ~np.isin(self.listener * size + self.row, data.listener * size + data.row)
        return Impressions(self.listener[mask], self.row[mask], self.hour[mask], self.positive[mask])


def read_impressions(source: Table, catalogue: Tracks, listening: Interactions) -> Impressions:
    """Check the table and return it with numbers of recordings and listeners. Raises TableError."""
    check(source, SCHEMA, "user_id")
    unknown = sorted(set(source.frame["event"]) - set(IS_POSITIVE))
    if unknown:
        raise TableError(f"{source.name}: event: expected {', '.join(IS_POSITIVE)}, found {', '.join(unknown[:5])}")
    number = pl.DataFrame({"user_id": listening.names, "listener": range(len(listening.names))})
    source.frame = in_catalogue(source.frame, catalogue).join(number, on="user_id", how="left", maintain_order="left")
    keep_in_catalogue(source)
    source.keep(
        pl.col("listener").is_not_null(), "listener without listening", "have a listener without listening", "user_id"
    )
    frame = source.frame.sort("listener", "timestamp", "row")
    source.notes["positive impressions"] = frame.filter(pl.col("event") != "skipped").height
    hours = pl.from_epoch(frame["timestamp"], "s").dt.hour()
    return Impressions(
        frame["listener"].to_numpy(),
        frame["row"].cast(pl.Int64).to_numpy(),
        hours.cast(pl.Float32).to_numpy(),
        frame["event"].replace_strict(IS_POSITIVE, return_dtype=pl.Boolean).to_numpy(),
    )
