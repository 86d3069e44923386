"""The feedback store: exposures and events in SQLite or PostgreSQL. Safe to use from many threads and processes."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import msgspec
from msgspec import structs
from sqlalchemy import Connection, Engine, Select, Table, delete, func, insert, select, update
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from musix_runtime.errors import FeedbackError, InputError
from musix_runtime.feedback import database, migrations
from musix_runtime.feedback.database import INSERT_UNIQUE
from musix_runtime.feedback.events import CLIENT_WAIT_S, DAY_MS, Event
from musix_runtime.feedback.exposures import Exposure
from musix_runtime.feedback.grouping import GroupedWriter
from musix_runtime.feedback.jobs import JobQueue
from musix_runtime.feedback.reports import Report
from musix_runtime.feedback.tables import EVENTS, EXPOSURES, FORGOTTEN, REPORTS

Outcome = Literal["accepted", "duplicate", "forgotten"]
LOCK = 0x6D757370  # of PostgreSQL: shared by the writers of rows, exclusive while a user is forgotten
GROUP_EVENTS = 4_000  # in one transaction, if several threads have some
READ_ROWS = 2_000  # in one group; larger ones do not stay in the cache of the processor
DELETE_ROWS = 10_000  # in one transaction, so that other writers do not wait long
KEPT_REPORTS = 100  # of one name


# Of SQLite: one statement for all rows takes half the processor time of SQLAlchemy's own, which has one for each number
# of rows.
EVENT_COLUMNS = Event.__struct_fields__
INSERT_EVENT = (
    f"INSERT INTO events ({', '.join(EVENT_COLUMNS)}) VALUES ({', '.join('?' * len(EVENT_COLUMNS))})"
    " ON CONFLICT (event_id) DO NOTHING"
)


class FeedbackStore:
    """A feedback database. Make one with `FeedbackStore.open`. Methods raise FeedbackError while it cannot be used.

    `jobs` is the queue of jobs, which is in the same database.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self.jobs = JobQueue(self)
        self._engine = engine
        add = INSERT_UNIQUE[engine.dialect.name]
        self._add_event = add(EVENTS).on_conflict_do_nothing(index_elements=["event_id"]).returning(EVENTS.c.event_id)
        self._events = GroupedWriter(self._add_events, GROUP_EVENTS)
        self._add_forgotten = add(FORGOTTEN).on_conflict_do_nothing(index_elements=["user_sha256"])

    @classmethod
    def open(cls, text: str, create: bool = True) -> "FeedbackStore":
        """Open the database with the URL `text`, and migrate it to the schema of this program.

        Without `create` it must be a feedback store already. Raises InputError when it cannot be opened, is another
        program's, or has a newer schema, and FeedbackError when no PostgreSQL answers.
        """
        url = database.parse_url(text)
        name = url.difference_update_query(["password", "sslpassword"]).render_as_string(hide_password=True)
        engine, migrating = database.connect(url), database.connect(url, migrating=True)
        try:
            with database.opening(url, create):
                migrations.migrate(migrating, name, create=create)
                engine.connect().close()  # configures a new file of SQLite
        except SQLAlchemyError as error:
            unreachable = url.drivername == database.POSTGRESQL and isinstance(error, OperationalError)
            kind = FeedbackError if unreachable else InputError
            raise kind(f"{name}: expected a database that can be opened, found: {database.reason(error)}") from error
        finally:
            migrating.dispose()
        return cls(engine, name)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def add_events(self, events: Sequence[Event]) -> list[Outcome]:
        """Store the events whose ids are new, and return the outcome of each, in order, after the commit."""
        return self._events.add(events) if events else []

    def _add_events(self, events: list[Event]) -> list[Outcome]:
        """Store events of one or more callers in one transaction: see `add_events`."""
        first = {event.event_id: event for event in reversed(events)}
        with self._writing(wait_s=CLIENT_WAIT_S) as connection:
            forgotten = _forgotten(connection, {event.user_id for event in events})
            new = [event for event in first.values() if event.user_id not in forgotten]
            new.sort(key=lambda event: event.event_id)  # in one order everywhere, so that no two writers deadlock
            added = self._insert(connection, new) if new else set()
        return [_outcome(event, first[event.event_id] is event, forgotten, added) for event in events]

    def _insert(self, connection: Connection, events: list[Event]) -> set[str]:
        """Insert the events whose ids are new, and return these ids."""
        if connection.dialect.name != "sqlite":
            rows = [structs.asdict(event) for event in events]
            return set(connection.execute(self._add_event, rows).scalars())
        (last,) = connection.exec_driver_sql("SELECT max(id) FROM events").one()  # the transaction is the only writer
        done = connection.exec_driver_sql(INSERT_EVENT, [structs.astuple(event) for event in events])
        if done.rowcount == len(events):
            return {event.event_id for event in events}
        return set(connection.exec_driver_sql("SELECT event_id FROM events WHERE id > ?", (last or 0,)).scalars())

    def add_exposures(self, exposures: Sequence[Exposure], wait_s: float | None = None) -> int:
        """Store the exposures of users who were not forgotten, and return their number. Waits `wait_s` for others."""
        with self._writing(wait_s=wait_s) as connection:
            forgotten = _forgotten(connection, {exposure.user_id for exposure in exposures})
            rows = [structs.asdict(exposure) for exposure in exposures if exposure.user_id not in forgotten]
            if rows:
                connection.execute(insert(EXPOSURES), rows)
        return len(rows)

    def forget(self, user_id: str, now_ms: int) -> tuple[int, int]:
        """Refuse later rows of a user, and delete the present ones, also their bytes in a file of SQLite.

        Return the numbers of deleted events and exposures. Others read and write meanwhile.
        """
        with self._writing(exclusive=True) as connection:
            connection.execute(self._add_forgotten, {"user_sha256": user_hash(user_id), "time_ms": now_ms})
        events, exposures = (self._delete_user(table, user_id) for table in (EVENTS, EXPOSURES))
        database.erase(self._engine, user_id.encode())
        return events, exposures

    def _delete_user(self, table: Table, user_id: str) -> int:
        """Delete the rows of a user, to whom none is added any more, and return their number."""
        with self.reading() as connection:
            ids = connection.execute(select(table.c.id).where(table.c.user_id == user_id)).scalars().all()
        deleted = 0
        for start in range(0, len(ids), DELETE_ROWS):
            ours = table.c.id.in_(ids[start : start + DELETE_ROWS])
            with self._writing() as connection:
                # A value of equal length overwrites the id where it is. When rows are deleted, SQLite moves those
                # beside them, and leaves copies in unused parts of pages.
                connection.execute(update(table).where(ours).values(user_id="0" * len(user_id.encode())))
                deleted += connection.execute(delete(table).where(ours)).rowcount
        return deleted

    def forgotten(self) -> set[str]:
        """Return the hashes of the users who were forgotten, as `user_hash` makes them."""
        with self.reading() as connection:
            return set(connection.execute(select(FORGOTTEN.c.user_sha256)).scalars())

    def delete_before(self, time_ms: int) -> int:
        """Delete the events that occurred, and the lists that were shown, before a time. Return their number."""
        return self._delete_before(EVENTS, "occurred_ms", time_ms) + self._delete_before(EXPOSURES, "time_ms", time_ms)

    def _delete_before(self, table: Table, column: str, time_ms: int) -> int:
        old = select(table.c.id).where(table.c[column] < time_ms).limit(DELETE_ROWS)
        total, deleted = 0, DELETE_ROWS
        while deleted == DELETE_ROWS:
            with self._writing() as connection:
                deleted = connection.execute(delete(table).where(table.c.id.in_(old))).rowcount
            total += deleted
        return total

    def days(self) -> list[int]:
        """Return the days of the events by UTC, in order, as days since 1970."""
        day = (EVENTS.c.occurred_ms // DAY_MS).label("day")
        with self.reading() as connection:
            return list(connection.execute(select(day).distinct().order_by(day)).scalars())

    def events_of(self, day: int) -> list[Event]:
        """Return the events of a day, in the order of their time and id."""
        time = EVENTS.c.occurred_ms
        columns = [EVENTS.c[name] for name in EVENT_COLUMNS]
        wanted = select(*columns).where(time >= day * DAY_MS, time < (day + 1) * DAY_MS)
        with self.reading() as connection:
            return [Event(*row) for row in connection.execute(wanted.order_by(time, EVENTS.c.event_id))]

    def read(self, wanted: Select[Any]) -> Iterator[Sequence[Any]]:
        """Yield the rows of a query in groups, as the driver has them: a million take seconds less than as `Row`."""
        with self.reading() as connection:
            cursor = connection.execute(wanted).cursor
            while cursor and (rows := cursor.fetchmany(READ_ROWS)):
                yield rows

    def exposures(self) -> list[Exposure]:
        """Return all exposures, in the order in which they were stored."""
        columns = [EXPOSURES.c[name] for name in Exposure.__struct_fields__]
        with self.reading() as connection:
            return [Exposure(*row) for row in connection.execute(select(*columns).order_by(EXPOSURES.c.id))]

    def add_report(self, report: Report) -> None:
        """Store a report, and delete those of its name but the last `KEPT_REPORTS`."""
        row = {"name": report.name, "time_ms": report.time_ms, "content": msgspec.json.encode(report).decode()}
        ours = REPORTS.c.name == report.name
        kept = select(REPORTS.c.id).where(ours).order_by(REPORTS.c.id.desc()).limit(KEPT_REPORTS)
        with self._writing() as connection:
            connection.execute(insert(REPORTS), row)
            connection.execute(delete(REPORTS).where(ours, REPORTS.c.id.not_in(kept)))

    def latest_report(self, name: str) -> Report | None:
        """Return the last report of a name that was stored, None if there is none."""
        wanted = select(REPORTS.c.content).where(REPORTS.c.name == name).order_by(REPORTS.c.id.desc()).limit(1)
        with self.reading() as connection:
            content = connection.execute(wanted).scalar_one_or_none()
        try:
            return None if content is None else msgspec.json.decode(content, type=Report)
        except msgspec.DecodeError as error:
            raise FeedbackError(f"{self.name}: reports: expected one of this program, found: {error}") from error

    @contextmanager
    def _writing(self, exclusive: bool = False, wait_s: float | None = None) -> Iterator[Connection]:
        """Yield a connection in a transaction that writes rows of users."""
        with self.writing(wait_s) as connection:
            if self._engine.dialect.name == "postgresql":
                lock = func.pg_advisory_xact_lock if exclusive else func.pg_advisory_xact_lock_shared
                connection.execute(select(lock(LOCK)))
            yield connection

    @contextmanager
    def writing(self, wait_s: float | None = None) -> Iterator[Connection]:
        """Yield a connection in a transaction, which is committed at the end. SQLite waits `wait_s` for others."""
        connect = self._engine.connect
        with self._translating(), connect().execution_options(wait_s=wait_s) as connection, connection.begin():
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection that only reads."""
        with self._translating(), self._engine.connect().execution_options(reads=True) as connection:
            yield connection

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            found = database.reason(error)
            raise FeedbackError(f"{self.name}: expected a database that answers, found: {found}") from error


def user_hash(user_id: str) -> str:
    """Return the SHA-256 of a user's id in hexadecimal."""
    return hashlib.sha256(user_id.encode()).hexdigest()


def _forgotten(connection: Connection, users: Iterable[str]) -> set[str]:
    """Return those of the users who were forgotten."""
    by_hash = {user_hash(user): user for user in users}
    wanted = select(FORGOTTEN.c.user_sha256).where(FORGOTTEN.c.user_sha256.in_(by_hash))
    return {by_hash[found] for found in connection.execute(wanted).scalars()}


def _outcome(event: Event, first: bool, forgotten: set[str], added: set[str]) -> Outcome:
    if event.user_id in forgotten:
        return "forgotten"
    return "accepted" if first and event.event_id in added else "duplicate"
