import os
import signal
import sqlite3
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import URL
from sqlalchemy.exc import OperationalError

from musix_runtime.errors import FeedbackError, InputError
from musix_runtime.feedback import database as databases
from musix_runtime.feedback import postgresql as impatient
from musix_runtime.feedback import residue
from musix_runtime.feedback.events import DAY_MS
from musix_runtime.feedback.exposures import Exposure
from musix_runtime.feedback.store import DELETE_ROWS, FeedbackStore
from tests.runtime.feedback.conftest import event


def exposure(list_id: str, user_id: str = "ann", time_ms: int = 0) -> Exposure:
    return Exposure(list_id, time_ms, user_id, "demo-1.0.0", "0" * 64, "hybrid", "{}", "[]")


def stored(store: FeedbackStore) -> list[str]:
    return [item.event_id for day in store.days() for item in store.events_of(day)]


def test_an_event_is_stored_once(store: FeedbackStore) -> None:
    assert store.add_events([event("a"), event("b"), event("a")]) == ["accepted", "accepted", "duplicate"]
    assert store.add_events([event("c"), event("b"), event("c")]) == ["accepted", "duplicate", "duplicate"]
    assert store.add_events([]) == []
    assert stored(store) == ["a", "b", "c"]


def test_an_event_is_read_as_it_was_stored(store: FeedbackStore) -> None:
    fields = {"session_id": "s", "list_id": "l", "track_id": "träck", "position": 3, "ms_played": 86_400_000}
    given = event("a", "ünüser", 1_800_000_000_123, received_ms=1_800_000_000_456, action="skipped", **fields)
    store.add_events([given])
    assert store.events_of(given.occurred_ms // DAY_MS) == [given]


def test_a_repeated_play_of_a_track_is_another_event(store: FeedbackStore) -> None:
    assert store.add_events([event("a", track_id="t"), event("b", track_id="t")]) == ["accepted", "accepted"]


def test_writers_at_the_same_time_store_each_event_once(store: FeedbackStore) -> None:
    batches = [[event(f"{(i * k) % 97:02d}") for i in range(97)] for k in range(1, 25)]  # in different orders
    with ThreadPoolExecutor(8) as threads:
        outcomes = [outcome for result in threads.map(store.add_events, batches) for outcome in result]
    assert outcomes.count("accepted") == 97
    assert outcomes.count("duplicate") == 97 * 23
    assert stored(store) == [f"{i:02d}" for i in range(97)]


def test_a_forgotten_user_has_no_rows_and_gets_none(store: FeedbackStore) -> None:
    store.add_events([event("a", "ann"), event("b", "bob")])
    store.add_exposures([exposure("1", "ann"), exposure("2", "bob")])
    assert store.forget("ann", now_ms=5) == (1, 1)
    assert store.forget("ann", now_ms=6) == (0, 0)
    assert store.add_events([event("c", "ann"), event("d", "bob")]) == ["forgotten", "accepted"]
    assert store.add_exposures([exposure("3", "ann"), exposure("4", "bob")]) == 1
    assert stored(store) == ["b", "d"]
    assert [item.list_id for item in store.exposures()] == ["2", "4"]


def test_no_event_survives_that_is_stored_while_its_user_is_forgotten(store: FeedbackStore) -> None:
    with ThreadPoolExecutor(4) as threads:
        writes = [threads.submit(store.add_events, [event(f"{i}", "ann")]) for i in range(60)]
        threads.submit(store.forget, "ann", 0).result()
        outcomes = {write.result()[0] for write in writes}
    assert outcomes <= {"accepted", "forgotten"}
    assert stored(store) == []


def test_old_rows_are_deleted(store: FeedbackStore) -> None:
    store.add_events([event("a", occurred_ms=1), event("b", occurred_ms=2)])
    store.add_exposures([exposure("1", time_ms=1), exposure("2", time_ms=2)])
    assert store.delete_before(2) == 2
    assert stored(store) == ["b"]
    assert [item.list_id for item in store.exposures()] == ["2"]


def test_many_old_rows_are_deleted_in_several_transactions(store: FeedbackStore) -> None:
    store.add_exposures([exposure(f"{i}") for i in range(DELETE_ROWS + 1)])
    assert store.delete_before(1) == DELETE_ROWS + 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://me:secret@host/db", r"feedback: expected sqlite:///FILE or postgresql\+psycopg://.*, found 'mysql'"),
        ("feedback.db", "feedback: expected sqlite:///FILE or .*, found no URL"),
        ("sqlite://", "feedback: expected sqlite:///FILE or .*, found no file"),
        ("sqlite:///none.db?mode=ro", "feedback: expected sqlite:///FILE or .*, found options of SQLite: mode"),
        ("sqlite:////no/such/folder/f.db", "/no/such/folder/f.db: expected a file that can be written, found: No such"),
        ("postgresql+psycopg://me:p@ss:secret@host/db", r"found no URL$"),  # as if `secret@host` were a port
        ("postgresql+psycopg://me@[::1/secret", "found no URL$"),
        (
            "postgresql+psycopg://me@127.0.0.1:1/db?password=secret",
            r"^postgresql\+psycopg://me@127.0.0.1:1/db: expected a database that can be opened, found: ",
        ),
        (
            "postgresql+psycopg://me:secret@127.0.0.1:1/db",
            r"^postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/db: expected a database that can be opened, found: ",
        ),
    ],
)
def test_a_database_that_cannot_be_opened(url: str, message: str) -> None:
    kind = FeedbackError if "127.0.0.1" in url else InputError  # an outage is no wrong input
    with pytest.raises(kind, match=message) as caught:
        FeedbackStore.open(url)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("notes of another kind\n" * 100)
    with pytest.raises(InputError, match=r"notes\.txt: expected a database that can be opened, found: file is not a"):
        FeedbackStore.open(f"sqlite:///{file}")
    assert file.read_text() == "notes of another kind\n" * 100


def test_a_missing_file_is_not_created_for_reading(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"feedback\.db: expected a feedback database, found none"):
        FeedbackStore.open(f"sqlite:///{tmp_path / 'feedback.db'}", create=False)
    assert list(tmp_path.iterdir()) == []


def schema_version(file: Path) -> int:
    """Return a number that grows when the file is written anew."""
    with closing(sqlite3.connect(file)) as connection:
        return int(connection.execute("PRAGMA schema_version").fetchone()[0])


def fill(store: FeedbackStore, users: list[str]) -> None:
    """Store many events of users, in an order that is not that of their names."""
    for start in range(0, 6000, 500):
        store.add_events([event(f"{i}", users[i * 7919 % len(users)], i) for i in range(start, start + 500)])
    store.add_exposures([exposure(f"{i}", users[i % 2]) for i in range(300)])


def leave_copy(file: Path, text: bytes) -> None:
    """Write a text between the pointers and the cells of a page, as SQLite leaves copies of cells that it has moved."""
    content = bytearray(file.read_bytes())
    for page in range(4096, len(content), 4096):
        kind, cells, first = content[page], *struct.unpack(">xHH", content[page + 2 : page + 7])
        unused = 8 + 2 * cells
        if kind == 13 and first - unused > len(text):  # a leaf of a table
            content[page + unused : page + unused + len(text)] = text
            file.write_bytes(content)
            return
    raise AssertionError("expected a page with room, found none")


@pytest.mark.parametrize(
    ("user", "copy", "rewritten"),
    [
        ("the-listener-who-leaves", False, False),
        ("the-listener", False, True),  # as it is a part of other ids
        ("the-listener-who-leaves", True, True),
    ],
)
def test_the_file_is_written_anew_only_if_it_still_has_the_id(
    tmp_path: Path, user: str, copy: bool, rewritten: bool
) -> None:
    file = tmp_path / "f.db"
    store = FeedbackStore.open(f"sqlite:///{file}")
    fill(store, [user, *(f"the-listener-who-stays-{i:03d}" for i in range(150))])
    if copy:
        store.close()
        leave_copy(file, user.encode())
    before = schema_version(file)
    events, exposures = store.forget(user, 0)
    assert (events, exposures) == (6000 // 151 + 1, 150)
    assert (schema_version(file) > before) is rewritten
    left = [path.name for path in tmp_path.iterdir() if user.encode() in path.read_bytes()]
    assert left == (["f.db"] if user == "the-listener" else [])
    assert len(store.exposures()) == 150
    store.close()


def test_others_write_while_a_listener_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the step that takes longest: the look for bytes in the whole file."""
    store = FeedbackStore.open(f"sqlite:///{tmp_path / 'f.db'}")
    fill(store, ["ann-who-leaves", "bob-who-stays"])
    look, outcomes = databases._holds, []

    def look_and_write(file: str, wanted: bytes) -> bool:
        outcomes.extend(store.add_events([event("new", "bob-who-stays"), event("late", "ann-who-leaves")]))
        return look(file, wanted)

    monkeypatch.setattr(databases, "_holds", look_and_write)
    assert store.forget("ann-who-leaves", 0)[0] == 3000
    assert outcomes == ["accepted", "forgotten"]
    assert "new" in stored(store)
    store.close()


@pytest.mark.parametrize("place", [0, 2**22 - 3, 2**22, 2**23 - 1])
def test_bytes_are_found_across_the_parts_that_are_read(tmp_path: Path, place: int) -> None:
    file = tmp_path / "large"
    file.write_bytes(bytes(place) + b"needle" + bytes(2**22))
    with file.open("rb") as opened:
        assert residue.holds(opened, b"needle")
    with file.open("rb") as opened:
        assert not residue.holds(opened, b"needles")


def test_forgetting_is_complete_only_when_no_reader_keeps_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "TIMEOUT_S", 0.2)
    store = FeedbackStore.open(f"sqlite:///{tmp_path / 'f.db'}")
    store.add_events([event("a", "ann")])
    with closing(sqlite3.connect(tmp_path / "f.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM events").fetchall()
        with pytest.raises(FeedbackError, match=r"f\.db: expected no other reader for 0\.2 s, found one"):
            store.forget("ann", 0)
    assert store.forget("ann", 1) == (0, 0)
    store.close()


def test_a_locked_table_is_an_error_after_a_while(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "TIMEOUT_S", 1)
    store, other = FeedbackStore.open(database), databases.connect(databases.parse_url(database))
    with other.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(FeedbackError, match=r"expected a database that answers, found: .*lock timeout"):
                store.days()
        with pytest.raises(FeedbackError, match=r"expected a database that answers, found: .*lock"):
            store.add_events([event("a")])
    assert store.add_events([event("a")]) == ["accepted"]
    store.close()
    other.dispose()


def test_a_paused_server_is_an_error_after_a_while(postgresql: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "TIMEOUT_S", 2)
    monkeypatch.setattr(impatient, "ANSWER_S", 0.5)
    with closing(FeedbackStore.open(postgresql.render_as_string(hide_password=False))) as store:
        with store.reading() as connection:
            backend = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            server = parent(backend)
            with paused(backend), pytest.raises(OperationalError, match=r"no answer within 0\.5 s"):
                connection.exec_driver_sql("SELECT 1")
        with paused(server), pytest.raises(FeedbackError, match="expected a database that answers, found: "):
            store.days()
        assert store.add_events([event("a")]) == ["accepted"]


@contextmanager
def paused(process: int) -> Iterator[None]:
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def parent(process: int) -> int:
    """Return the process that started another one."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
