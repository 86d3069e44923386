"""Export of a feedback database into the standard tables, one file for each day."""

import re
from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from musix_runtime.atomic import check_writable, new_path, writing
from musix_runtime.feedback.events import SECOND_MS, Event
from musix_runtime.feedback.opening import open_store
from musix_runtime.feedback.store import FeedbackStore
from musix_trainer.data import tables
from musix_trainer.data.impressions import IS_POSITIVE

EPOCH = date(1970, 1, 1)
LISTENING, FEEDBACK = "listening", "feedback"  # folders of the two tables
DAY_FILE = re.compile(r"\d{4}-\d{2}-\d{2}")
COLUMNS = {
    "user_id": pl.String,
    "track_id": pl.String,
    "timestamp": pl.Int64,  # seconds since 1970, as the tables of the trainer have it
    "event": pl.String,
    "position": pl.Int64,
}


def export_feedback(database: str, out: Path, since: date | None = None) -> dict[str, int]:
    """Write `out`/listening/DAY.parquet and `out`/feedback/DAY.parquet, and return the number of days, plays and
    impressions.

    Days are those of UTC on which events occurred, from `since` on; a file of such a day that has no more events is
    removed. Each file is replaced as a whole, and the same events give the same bytes. Raises InputError for a database
    that cannot be opened, OutputError for a folder that cannot be written.
    """
    store = open_store(database, create=False)
    notes = {"days": 0, "plays": 0, "impressions": 0}
    written: dict[str, set[str]] = {LISTENING: set(), FEEDBACK: set()}
    try:
        for day in store.days():
            name = EPOCH + timedelta(days=day)
            if since and name < since:
                continue
            impressions = _impressions(store.events_of(day))
            listening = _listening(impressions)
            for table, frame in ((LISTENING, listening), (FEEDBACK, impressions)):
                if frame.height:
                    _write(out / table / f"{name}.parquet", frame)
                    written[table].add(f"{name}")
            notes["days"] += 1
            notes["plays"] += int(listening["plays"].sum())
            notes["impressions"] += impressions.height
    finally:
        store.close()
    for table, days in written.items():
        _remove_others(out / table, days, since)
    return notes


def read_feedback(store: FeedbackStore, until_ms: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the tables of listening and of feedback, of the events that occurred before a time. Raises
    FeedbackError."""
    events = (event for day in store.days() for event in store.events_of(day) if event.occurred_ms < until_ms)
    impressions = _impressions(events)
    return _listening(impressions), impressions


def _impressions(events: Iterable[Event]) -> pl.DataFrame:
    """Return the table of feedback. What was only shown is no feedback yet."""
    rows = [
        (event.user_id, event.track_id, event.occurred_ms // SECOND_MS, event.action, event.position)
        for event in events
        if event.action in IS_POSITIVE
    ]
    frame = pl.DataFrame(rows, schema=COLUMNS, orient="row")
    return frame.sort("user_id", "timestamp", "track_id", "event", "position")


def _listening(impressions: pl.DataFrame) -> pl.DataFrame:
    """Return the table of listening: the number and the last time of the plays of each user and track."""
    plays = impressions.filter(pl.col("event") == "played").group_by("user_id", "track_id")
    totals = plays.agg(pl.len().cast(pl.Int64).alias("plays"), pl.col("timestamp").max())
    return totals.sort("user_id", "track_id")


def _write(path: Path, frame: pl.DataFrame) -> None:
    check_writable(path.parent)
    with new_path(path, replace=True) as partial, writing(path):
        tables.write(partial, frame)


def _remove_others(folder: Path, days: set[str], since: date | None) -> None:
    """Remove the files of days that have no more events, as those of a listener who was forgotten."""
    for path in sorted(folder.glob("*.parquet")):
        if DAY_FILE.fullmatch(path.stem) and path.stem not in days and not (since and path.stem < f"{since}"):
            with writing(path):
                path.unlink()
