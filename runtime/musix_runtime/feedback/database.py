"""Connections to the feedback database: SQLite or PostgreSQL, by a URL."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from musix_runtime.atomic import lock
from musix_runtime.errors import FeedbackError, InputError, shorten
from musix_runtime.feedback import residue

FORMS = "sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"
SQLITE, POSTGRESQL = "sqlite", "postgresql+psycopg"
TIMEOUT_S = 5  # for another writer of an SQLite database, and for a connection to PostgreSQL
CHECKPOINT_PAGES = 4000  # of the log, 16 MB: a page that changes often is then written to the file less often
INSERT_UNIQUE: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}  # by the dialect's name


def parse_url(text: str) -> URL:
    """Return the URL of a database. Raises InputError, without the text, which may hold a password."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:  # ValueError: a port that is no number, such as the end of a password
        expected = f"{FORMS}, with the characters @:/ of a password as %40 %3A %2F"
        raise InputError(f"feedback: expected {expected}, found no URL") from error
    if url.drivername not in (SQLITE, POSTGRESQL):
        raise InputError(f"feedback: expected {FORMS}, found {shorten(url.drivername)!r}")
    if url.drivername == SQLITE and url.database in (None, "", ":memory:"):
        raise InputError(f"feedback: expected {FORMS}, found no file")
    if url.drivername == SQLITE and url.query:
        raise InputError(f"feedback: expected {FORMS}, found options of SQLite: {shorten(', '.join(url.query))}")
    return url


def connect(url: URL, migrating: bool = False) -> Engine:
    """Return SQLAlchemy's engine of a database, which connects when it is first used.

    A `migrating` one waits without end for the answers of PostgreSQL, and leaves the settings of a file of SQLite as
    they are: it may be another program's.
    """
    if url.drivername == POSTGRESQL:
        engine = create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": TIMEOUT_S})
        event.listen(engine, "begin", _begin_postgresql)
        if not migrating:
            event.listen(engine, "do_connect", _connect_impatiently)
        return engine
    engine = create_engine(url, connect_args={"timeout": TIMEOUT_S})
    file = _OpenedFile(Path(str(url.database)))
    event.listen(engine, "do_connect", file.check)
    event.listen(engine, "connect", file.opened)
    event.listen(engine, "connect", _begin_by_hand)
    if not migrating:
        event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", file.check)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


class _OpenedFile:
    """The file of an SQLite database. When it is removed or replaced, SQLite goes on to write into the removed one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None  # device and inode, once it was opened

    def check(self, *event: object) -> None:
        """Raise FeedbackError unless the path leads to the file that was opened first."""
        if self._identity and self._identity != self._found():
            raise FeedbackError(
                f"{self._path}: expected the file that was opened, found that it was removed or replaced; "
                "restart what uses it"
            )

    def opened(self, *event: object) -> None:
        """Remember the file that was opened."""
        self._identity = self._identity or self._found()

    def _found(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


def _connect_impatiently(dialect: object, record: object, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """Return a connection to PostgreSQL that is closed when no answer comes."""
    from musix_runtime.feedback.postgresql import ImpatientConnection  # SQLite needs no psycopg

    return ImpatientConnection.connect(*arguments, **options)


def _begin_postgresql(connection: Connection) -> None:
    """Wait `TIMEOUT_S` for the locks of others. Of the transaction alone, as a pooler may share the connection."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{TIMEOUT_S}s'")


def _begin_by_hand(connection: sqlite3.Connection, record: object) -> None:
    """Let `_begin_sqlite` begin the transactions, not the driver."""
    connection.isolation_level = None


def _configure_sqlite(connection: sqlite3.Connection, record: object) -> None:
    """Write ahead to a log, and flush it at each commit: a commit survives the end of the process, and a power cut.

    NORMAL, which flushes only at checkpoints, would survive the former only.
    """
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten with zeros


def _begin_sqlite(connection: Connection) -> None:
    """Take the lock of writers at once, for which SQLite waits `wait_s`, by default `TIMEOUT_S`; that of a reader that
    begins to write may fail."""
    options = connection.get_execution_options()
    if options.get("reads", False):
        connection.exec_driver_sql("BEGIN")
        return
    wait_s = options.get("wait_s")
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(1000 * (TIMEOUT_S if wait_s is None else wait_s))}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def erase(engine: Engine, wanted: bytes) -> None:
    """Empty the log of an SQLite database, so that the file is all there is; if it still has the bytes, in unused parts
    of its pages or as a part of others, write it anew, for which all others wait.

    Waits up to `TIMEOUT_S` for others. Raises FeedbackError when they use the database for longer.
    """
    if engine.dialect.name != SQLITE:
        return
    connection = engine.raw_connection()  # not in a transaction
    try:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {round(1000 * TIMEOUT_S)}")  # which a transaction may have set
        _empty_log(cursor, str(engine.url.database))
        if _holds(str(engine.url.database), wanted):
            cursor.execute("VACUUM")
            _empty_log(cursor, str(engine.url.database))
    except sqlite3.Error as error:
        raise FeedbackError(f"{engine.url.database}: expected a file to write anew, found: {error}") from error
    finally:
        connection.close()


def _empty_log(cursor: DBAPICursor, file: str) -> None:
    """Move the log into the file. Raises FeedbackError while somebody reads from it."""
    cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (busy, *_) = cursor.fetchone() or (True,)
    if busy:
        raise FeedbackError(f"{file}: expected no other reader for {TIMEOUT_S} s, found one")


def _holds(file: str, wanted: bytes) -> bool:
    """Return whether a file has the bytes, or whether that is not known: see `residue`."""
    found = subprocess.run([sys.executable, "-I", residue.__file__, file], input=wanted, check=False)
    return found.returncode != 0


@contextmanager
def opening(url: URL, create: bool) -> Iterator[None]:
    """Let one process at a time open an SQLite database, as changing the journal mode does not wait for others.

    Raises InputError when its file does not exist and is not to be created.
    """
    if url.drivername != SQLITE:
        yield
        return
    file = Path(str(url.database))
    if not create and not file.exists():
        raise InputError(f"{file}: expected a feedback database, found none")
    lock_file = file.with_name(f".{file.name}.lock")
    try:
        with lock(lock_file, wait=True):
            try:
                yield
            finally:
                lock_file.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{file}: expected a file that can be written, found: {error.strerror}") from error


def reason(error: SQLAlchemyError) -> str:
    """Return the first line of the message of the database's own error."""
    text = str(getattr(error, "orig", None) or error).strip()
    return shorten(text.partition("\n")[0], 300)
