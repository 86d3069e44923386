"""The tables of an export, as the trainer reads them."""

import hashlib
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from musix_runtime.errors import InputError, TableError
from musix_runtime.feedback.events import milliseconds
from musix_runtime.feedback.store import FeedbackStore
from musix_trainer.cli import feedback
from musix_trainer.data import synthetic, tables
from musix_trainer.data.impressions import read_impressions
from musix_trainer.data.interactions import read_interactions
from musix_trainer.data.tables import Table
from musix_trainer.data.tracks import read_tracks
from musix_trainer.importers.feedback import export_feedback
from musix_trainer.recipe import Synthetic
from tests.runtime.feedback.conftest import event

WORLD = synthetic.generate(Synthetic(tracks=600, listeners=20), 1)
CATALOGUE = read_tracks(Table(WORLD.tracks, "tracks", ""))
TRACK = synthetic.track_id
LAST_MS = milliseconds(datetime(2026, 1, 30, 23, 59, 59, 999_000, UTC))
EVENTS = [
    event("1", "ann", LAST_MS - 5000, track_id=TRACK(1), position=2),
    event("2", "ann", LAST_MS, track_id=TRACK(1)),  # played twice
    event("3", "ann", LAST_MS + 1, track_id=TRACK(1)),  # on the next day
    event("4", "ann", LAST_MS + 1, track_id=TRACK(2), action="skipped", position=1),
    event("5", "bob", LAST_MS + 1, track_id=TRACK(3), action="shown"),
    event("6", "bob", LAST_MS + 2, track_id=TRACK(3), action="saved"),
    event("7", "bob", LAST_MS + 3, track_id=TRACK(4), action="played"),
    event("8", "bob", LAST_MS + 3, track_id=TRACK(4), action="clicked"),
]


def contents(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def filled(store: FeedbackStore) -> FeedbackStore:
    store.add_events(EVENTS)
    return store


def test_the_trainer_reads_the_tables(filled: FeedbackStore, database: str, tmp_path: Path) -> None:
    out = tmp_path / "tables"
    assert export_feedback(database, out) == {"days": 2, "plays": 4, "feedback": 7}
    assert sorted(contents(out)) == [
        f"{table}/2026-01-{day}.parquet" for table in ("feedback", "listening") for day in (30, 31)
    ]
    first = read_interactions(tables.read(out / "listening" / "2026-01-30.parquet"), CATALOGUE)
    assert (first.names, first.plays.tolist(), first.last.tolist()) == (["ann"], [2], [LAST_MS // 1000])
    second = read_interactions(tables.read(out / "listening" / "2026-01-31.parquet"), CATALOGUE)
    assert (second.names, second.plays.tolist()) == (["ann", "bob"], [1, 1])
    table = tables.read(out / "feedback" / "2026-01-31.parquet")
    assert table.frame.columns == ["user_id", "track_id", "timestamp", "event", "position"]
    impressions = read_impressions(table, CATALOGUE, second)
    assert impressions.positive.tolist() == [True, False, True, True, True]
    assert impressions.hour.tolist() == [0] * 5
    assert table.frame["position"].to_list() == [None, 1, None, None, None]


def test_the_same_events_give_the_same_bytes(filled: FeedbackStore, database: str, tmp_path: Path) -> None:
    export_feedback(database, tmp_path / "a")
    other = FeedbackStore.open(f"sqlite:///{tmp_path / 'other.db'}")
    for item in reversed(EVENTS):
        other.add_events([item])
    other.close()
    export_feedback(f"sqlite:///{tmp_path / 'other.db'}", tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_since_leaves_earlier_days_alone(filled: FeedbackStore, database: str, tmp_path: Path) -> None:
    out = tmp_path / "tables"
    export_feedback(database, out)
    filled.forget("ann", 0)
    assert export_feedback(database, out, date(2026, 1, 31)) == {"days": 1, "plays": 1, "feedback": 3}
    assert pl.read_parquet(out / "listening" / "2026-01-30.parquet")["user_id"].to_list() == ["ann"]
    assert pl.read_parquet(out / "listening" / "2026-01-31.parquet")["user_id"].to_list() == ["bob"]


def test_what_a_killed_export_left_is_removed(filled: FeedbackStore, database: str, tmp_path: Path) -> None:
    """It may hold a listener who was forgotten since, and its day may have no rows any more."""
    left = tmp_path / "tables" / "listening" / ".2026-01-20.parquet.partial"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"ann")
    export_feedback(database, tmp_path / "tables")
    assert not left.exists()


def test_days_without_events_have_no_files(filled: FeedbackStore, database: str, tmp_path: Path) -> None:
    out = tmp_path / "tables"
    export_feedback(database, out)
    (out / "listening" / "mine.parquet").write_bytes(b"")
    filled.forget("ann", 0)
    export_feedback(database, out)
    assert sorted(contents(out)) == [
        "feedback/2026-01-31.parquet", "listening/2026-01-31.parquet", "listening/mine.parquet",
    ]  # fmt: skip


@pytest.mark.parametrize("until_ms", [LAST_MS - 1000, LAST_MS + 1, LAST_MS + 2, LAST_MS + 3, LAST_MS + 1000])
def test_what_the_database_has_deleted_is_kept(
    filled: FeedbackStore, database: str, tmp_path: Path, until_ms: int
) -> None:
    out = tmp_path / "tables"
    export_feedback(database, out)
    before = contents(out)
    assert filled.delete_before(until_ms) > 0
    export_feedback(database, out)
    assert contents(out) == before
    late_and_new = LAST_MS - 20 * 86_400_000, LAST_MS + 2 * 86_400_000
    filled.add_events([event(f"at {time}", "cat", time, track_id=TRACK(1)) for time in late_and_new])
    export_feedback(database, out)
    assert {name: hashed for name, hashed in contents(out).items() if name in before} == before
    filled.forget("ann", 0)
    export_feedback(database, out)
    users = {user for path in out.glob("*/*.parquet") for user in pl.read_parquet(path)["user_id"]}
    assert users == {"bob", "cat"}


SECOND_OF_PLAYS_MS = LAST_MS + 1 + 5000
PLAYS_MS = [SECOND_OF_PLAYS_MS + each for each in (0, 1, 1, 2, 998, 999)]  # of one listener and track


def plays(out: Path) -> tuple[int, int]:
    """Return the number of plays in both tables."""
    listening, impressions = (
        pl.concat([pl.read_parquet(path) for path in out.glob(f"{table}/*.parquet")])
        for table in ("listening", "feedback")
    )
    return listening["plays"].sum(), impressions.filter(pl.col("event") == "played").height


def test_a_folder_with_brackets_is_exported_to_again(store: FeedbackStore, database: str, tmp_path: Path) -> None:
    out = tmp_path / "tables [1]"
    for play, time in enumerate(PLAYS_MS[:2]):
        store.add_events([event(f"{play}", occurred_ms=time, track_id=TRACK(1))])
        assert export_feedback(database, out)["plays"] == play + 1


@pytest.mark.parametrize("cut", [0, 1, 2, 500, 999, 1000])
def test_plays_in_the_second_in_which_feedback_was_deleted(
    store: FeedbackStore, database: str, tmp_path: Path, cut: int
) -> None:
    """Each counts once, whether it was deleted before it was exported again, or came since."""
    out = tmp_path / "tables"
    store.add_events([event(f"{i}", occurred_ms=time, track_id=TRACK(1)) for i, time in enumerate(PLAYS_MS)])
    assert export_feedback(database, out)["plays"] == 6
    before = contents(out)
    assert store.delete_before(SECOND_OF_PLAYS_MS + cut) == sum(time < SECOND_OF_PLAYS_MS + cut for time in PLAYS_MS)
    export_feedback(database, out)
    assert contents(out) == before
    for late, place in enumerate((400, 600)):
        store.add_events([event(f"late {late}", occurred_ms=SECOND_OF_PLAYS_MS + place, track_id=TRACK(1))])
        for _ in range(2):
            assert export_feedback(database, out)["plays"] == 7 + late
            assert plays(out) == (7 + late, 7 + late)
    assert read_interactions(tables.read(next(out.glob("listening/*"))), CATALOGUE).last.tolist() == [
        SECOND_OF_PLAYS_MS // 1000
    ]


def test_tables_with_whole_seconds_are_continued(store: FeedbackStore, database: str, tmp_path: Path) -> None:
    """As they were exported before times had milliseconds."""
    store.add_events([event(f"{i}", occurred_ms=time, track_id=TRACK(1)) for i, time in enumerate(PLAYS_MS)])
    export_feedback(database, tmp_path)
    for path in tmp_path.glob("*/*.parquet"):
        pl.read_parquet(path).with_columns(pl.col("timestamp").cast(pl.Datetime("ms")).dt.epoch("s")).write_parquet(
            path
        )
    store.delete_before(SECOND_OF_PLAYS_MS + 2)
    for _ in range(2):
        assert export_feedback(database, tmp_path)["plays"] == 6
        assert plays(tmp_path) == (6, 6)


def test_a_damaged_file_of_an_earlier_day_is_an_error(filled: FeedbackStore, database: str, tmp_path: Path) -> None:
    filled.forget("ann", 0)
    (tmp_path / "listening").mkdir()
    (tmp_path / "listening" / "2026-01-01.parquet").write_bytes(b"x")
    with pytest.raises(TableError, match="expected a table that was exported, found: "):
        export_feedback(database, tmp_path)


@pytest.mark.parametrize(
    ("table", "day", "frame"),
    [
        ("feedback", "2026-01-31", pl.DataFrame({"a": [1]})),
        ("listening", "2020-01-01", pl.DataFrame({"track_id": ["t"]})),
    ],
)
def test_a_table_of_another_kind_is_an_error(
    filled: FeedbackStore, database: str, tmp_path: Path, table: str, day: str, frame: pl.DataFrame
) -> None:
    filled.forget("ann", 0)
    path = tmp_path / table / f"{day}.parquet"
    path.parent.mkdir()
    frame.write_parquet(path)
    with pytest.raises(TableError, match=rf"{path.name}: expected a table that was exported, found the columns"):
        export_feedback(database, tmp_path)


def test_command_exports_since_a_day(filled: FeedbackStore, database: str, tmp_path: Path) -> None:
    arguments = ["export", database, "--out", str(tmp_path / "tables"), "--since", "2026-01-31"]
    done = CliRunner().invoke(feedback, arguments)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[:3] == ["days: 1", "plays: 2", "feedback: 5"]
    assert CliRunner().invoke(feedback, [*arguments[:-1], "yesterday"]).exit_code == 2


def test_the_command_without_a_database_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUSIX_FEEDBACK", raising=False)
    done = CliRunner().invoke(feedback, ["export", "--out", str(tmp_path / "tables")])
    assert (done.exit_code, "Missing argument 'DATABASE' (env var: 'MUSIX_FEEDBACK')" in done.output) == (2, True)


def test_a_missing_database_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a feedback database, found none"):
        export_feedback(f"sqlite:///{tmp_path / 'none.db'}", tmp_path / "tables")
    assert list(tmp_path.iterdir()) == []
