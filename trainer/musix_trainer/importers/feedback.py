"""Export of a feedback database into the standard tables, one file for each day."""

import re
from collections.abc import Iterable
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from musix_runtime.atomic import check_writable, new_path, remove_leftovers, writing
from musix_runtime.errors import TableError, shorten
from musix_runtime.feedback.events import SECOND_MS, Event
from musix_runtime.feedback.opening import open_store
from musix_runtime.feedback.store import FeedbackStore, user_hash
from musix_trainer.data import tables
from musix_trainer.data.impressions import IS_POSITIVE

EPOCH = date(1970, 1, 1)
LISTENING, FEEDBACK = "listening", "feedback"  # folders of the two tables
DAY_FILE = re.compile(r"\d{4}-\d{2}-\d{2}\.parquet")
COLUMNS: dict[str, pl.DataType] = {
    "user_id": pl.String(),
    "track_id": pl.String(),
    "timestamp": pl.Datetime("ms"),  # in UTC; as exact as the database deletes
    "event": pl.String(),
    "position": pl.Int64(),
}
TABLES = {
    FEEDBACK: COLUMNS,
    LISTENING: {"user_id": pl.String(), "track_id": pl.String(), "plays": pl.Int64(), "timestamp": pl.Datetime("ms")},
}
WHOLE_SECONDS = {"timestamp": pl.Int64()}  # since 1970, as earlier programs wrote them
SORTED = ("user_id", "timestamp", "track_id", "event", "position")


def export_feedback(database: str, out: Path, since: date | None = None) -> dict[str, int]:
    """Write `out`/listening/DAY.parquet and `out`/feedback/DAY.parquet, and return the number of days, of plays,
    and of rows of feedback.

    Days are those of UTC on which events occurred, from `since` on. What was exported and is no longer in the database
    is kept, but for listeners who were forgotten. Each file is replaced as a whole, and the same events give the same
    bytes. Raises InputError for a database that cannot be opened, TableError for an exported file that cannot be read,
    OutputError for a folder that cannot be written.
    """
    notes = {"days": 0, "plays": 0, "feedback": 0}
    with closing(open_store(database, create=False)) as store:
        forgotten = store.forgotten()
        days = {f"{EPOCH + timedelta(days=day)}": day for day in store.days()}
        for table in (LISTENING, FEEDBACK):
            remove_leftovers(out / table, DAY_FILE)  # they may hold listeners who were forgotten since
            for path in _exported(out / table, since):
                if path.stem not in days:
                    _forget(path, forgotten)
        for name, day in days.items():
            if since and name < f"{since}":
                continue
            paths = {table: out / table / f"{name}.parquet" for table in (LISTENING, FEEDBACK)}
            impressions = _with_deleted(_impressions(store.events_of(day)), paths[FEEDBACK], forgotten)
            listening = _listening(impressions)
            _write(paths[LISTENING], listening)
            _write(paths[FEEDBACK], impressions)
            notes["days"] += 1
            notes["plays"] += int(listening["plays"].sum())
            notes["feedback"] += impressions.height
    return notes


def without(frame: pl.DataFrame, forgotten: set[str]) -> pl.DataFrame:
    """Return a table without the rows of forgotten listeners, of whom there are the hashes of the ids."""
    if not forgotten:
        return frame
    gone = [user for user in frame["user_id"].unique() if user_hash(user) in forgotten]
    return frame.filter(~pl.col("user_id").is_in(gone))


def read_feedback(store: FeedbackStore, until_ms: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the tables of listening and of feedback, of the events that occurred before a time. Times are in seconds
    since 1970, as the trainer has them. Raises FeedbackError."""
    events = (event for day in store.days() for event in store.events_of(day) if event.occurred_ms < until_ms)
    impressions = _impressions(events).with_columns(pl.col("timestamp").dt.epoch("s")).sort(SORTED)
    return _listening(impressions), impressions


def _impressions(events: Iterable[Event]) -> pl.DataFrame:
    """Return the table of feedback. What was only shown is no feedback yet."""
    rows = [
        (event.user_id, event.track_id, event.occurred_ms, event.action, event.position)
        for event in events
        if event.action in IS_POSITIVE
    ]
    frame = pl.DataFrame(rows, schema=COLUMNS, orient="row")
    return frame.sort(SORTED)


def _listening(impressions: pl.DataFrame) -> pl.DataFrame:
    """Return the table of listening: the number and the last time of the plays of each user and track."""
    plays = impressions.filter(pl.col("event") == "played").group_by("user_id", "track_id")
    totals = plays.agg(pl.len().cast(pl.Int64).alias("plays"), pl.col("timestamp").max())
    return totals.sort("user_id", "track_id")


def _with_deleted(impressions: pl.DataFrame, path: Path, forgotten: set[str]) -> pl.DataFrame:
    """Return the impressions of a day with those that were exported, and deleted since. Of equal ones there are as many
    as there were exported or are in the database, whichever is more."""
    if not path.exists():
        return impressions
    exported, present = without(_read(path), forgotten), impressions
    if exported.schema["timestamp"] == pl.Int64:
        exported = exported.with_columns((pl.col("timestamp") * SECOND_MS).cast(COLUMNS["timestamp"]))
        present = impressions.with_columns(pl.col("timestamp").dt.truncate("1s")).sort(SORTED)
    deleted = _numbered(exported).join(_numbered(present), on=[*SORTED, "number"], how="anti", nulls_equal=True)
    return pl.concat([deleted.drop("number"), impressions]).sort(SORTED)


def _numbered(impressions: pl.DataFrame) -> pl.DataFrame:
    """Return sorted impressions with the number of each among those that are equal to it."""
    repeated = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift()) for name in SORTED)
    row = pl.int_range(pl.len())
    return impressions.with_columns((row - pl.when(~repeated).then(row).forward_fill()).alias("number"))


def _exported(folder: Path, since: date | None) -> list[Path]:
    """Return the files of days in a folder, in order."""
    paths = sorted(path for path in folder.glob("*.parquet") if DAY_FILE.fullmatch(path.name))
    return [path for path in paths if not (since and path.stem < f"{since}")]


def _forget(path: Path, forgotten: set[str]) -> None:
    """Write a file again without the rows of forgotten listeners, if it has some."""
    if forgotten and (left := without(frame := _read(path), forgotten)).height < frame.height:
        _write(path, left)


def _read(path: Path) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise TableError(f"{path}: expected a table that was exported, found: {error}") from error
    columns = TABLES[path.parent.name]
    found = dict(frame.schema)
    if found | WHOLE_SECONDS != columns | WHOLE_SECONDS or found["timestamp"] not in (columns["timestamp"], pl.Int64):
        text = shorten(", ".join(f"{name} {dtype}" for name, dtype in found.items()), 300)
        raise TableError(f"{path}: expected a table that was exported, found the columns {text}")
    return frame.select(*columns)


def _write(path: Path, frame: pl.DataFrame) -> None:
    """Write a file; remove it if it has no rows."""
    if not frame.height:
        with writing(path):
            path.unlink(missing_ok=True)
        return
    check_writable(path.parent)
    with new_path(path, replace=True) as partial, writing(path):
        tables.write(partial, frame)
