"""Release dates of recordings, joined to the tracks table of an import by title and primary artist."""

from pathlib import Path

import polars as pl

from musix_runtime.errors import TableError
from musix_trainer.data import tables
from musix_trainer.data.tables import Column, Table, check
from musix_trainer.data.tracks import recording_key, recording_keys

DATES = [Column("key", "text"), Column("release_date", "time")]
DERIVATION = "release dates are joined by normalised title and primary artist; of several, the earliest"


def add(tracks: Table, path: Path) -> dict[str, int | str]:
    """Add the column release_date to the tracks, and return how many recordings have one.

    The table `path` has the columns key, a title and an artist separated by `|`, and release_date. Of several dates of
    a recording the earliest counts. Raises TableError for a wrong table, for tracks that have the column already, and
    when no recording is joined.
    """
    if "release_date" in tracks.frame.columns:
        raise TableError(
            f"{tracks.name}: release_date: expected no such column beside a table of release dates, found one;"
            " remove one of the two"
        )
    dates = tables.read(path)
    check(dates, DATES, "key")
    known = [key.rpartition("|") for key in dates.frame["key"]]
    dates.frame = dates.frame.select(
        recording=pl.Series([recording_key(title, artist) for title, _, artist in known]),
        release_date=pl.from_epoch("release_date").cast(pl.Date),
    )
    earliest = dates.frame.group_by("recording").agg(pl.col("release_date").min())
    frame = tracks.frame.with_columns(recording=recording_keys(tracks.frame, "track_name", "artists"))
    frame = frame.join(earliest, on="recording", how="left", maintain_order="left")
    joined = frame.drop_nulls("release_date")["recording"].n_unique()
    if not joined:
        raise TableError(f"{dates.name}: key: expected recordings of {tracks.name}, found none by title and artist")
    tracks.frame = frame.drop("recording")
    return {"recordings": frame["recording"].drop_nulls().n_unique(), "recordings with a release date": joined}
