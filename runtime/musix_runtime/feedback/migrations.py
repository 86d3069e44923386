"""Migrations of the feedback database: the steps from an empty database to the schema of this program.

A step is never changed once it was released; a change of the schema is a further step, and of `tables.py`.
"""

from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, inspect, select

from musix_runtime.errors import InputError, shorten
from musix_runtime.feedback.tables import EVENTS, EXPOSURES, FORGOTTEN, SCHEMA_VERSION

# SQL that SQLite and PostgreSQL share. `{serial}` is the type of a primary key that numbers the rows: random ids as the
# clustered key would slow down SQLite.
SERIAL = {"sqlite": "INTEGER PRIMARY KEY", "postgresql": "BIGSERIAL PRIMARY KEY"}
LOCK = 0x6D757369  # of PostgreSQL, held while a database is migrated
OWN_TABLES = {table.name for table in (EVENTS, EXPOSURES, FORGOTTEN, SCHEMA_VERSION)}  # of every version
Step = tuple[str, ...]
STEPS: tuple[Step, ...] = (
    (
        """CREATE TABLE exposures (
            id {serial},
            list_id TEXT NOT NULL,
            time_ms BIGINT NOT NULL,
            user_id TEXT NOT NULL,
            bundle TEXT NOT NULL,
            digest TEXT NOT NULL,
            source TEXT NOT NULL,
            context TEXT NOT NULL,
            tracks TEXT NOT NULL
        )""",
        "CREATE INDEX exposures_list_id ON exposures (list_id)",
        "CREATE INDEX exposures_user_id ON exposures (user_id)",
        "CREATE INDEX exposures_time_ms ON exposures (time_ms)",
        """CREATE TABLE events (
            id {serial},
            event_id TEXT NOT NULL,
            received_ms BIGINT NOT NULL,
            occurred_ms BIGINT NOT NULL,
            user_id TEXT NOT NULL,
            session_id TEXT,
            list_id TEXT,
            track_id TEXT NOT NULL,
            position INTEGER,
            action TEXT NOT NULL,
            ms_played INTEGER
        )""",
        "CREATE UNIQUE INDEX events_event_id ON events (event_id)",
        "CREATE INDEX events_user_id ON events (user_id)",
        "CREATE INDEX events_occurred_ms ON events (occurred_ms)",
        "CREATE TABLE forgotten (user_sha256 TEXT PRIMARY KEY, time_ms BIGINT NOT NULL)",
    ),
    (
        "ALTER TABLE exposures ADD COLUMN experiment TEXT",
        "ALTER TABLE exposures ADD COLUMN variant TEXT",
        "ALTER TABLE exposures ADD COLUMN duration_us BIGINT",
        "ALTER TABLE exposures ADD COLUMN error TEXT",
        "CREATE INDEX exposures_experiment ON exposures (experiment) WHERE experiment IS NOT NULL",
    ),
    (
        """CREATE TABLE jobs (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            model TEXT NOT NULL,
            state TEXT NOT NULL,
            created_ms BIGINT NOT NULL,
            started_ms BIGINT,
            finished_ms BIGINT,
            attempts INTEGER NOT NULL,
            cancel_requested BOOLEAN NOT NULL,
            lease_token TEXT,
            lease_until_ms BIGINT,
            progress TEXT NOT NULL,
            log TEXT NOT NULL,
            reason TEXT
        )""",
        "CREATE UNIQUE INDEX jobs_unfinished ON jobs (name, model) WHERE finished_ms IS NULL",
    ),
    (
        """CREATE TABLE reports (
            id {serial},
            name TEXT NOT NULL,
            time_ms BIGINT NOT NULL,
            content TEXT NOT NULL
        )""",
        "CREATE INDEX reports_name ON reports (name)",
    ),
    (
        "CREATE INDEX exposures_bundle ON exposures (bundle, time_ms)",
        "DROP INDEX exposures_user_id",  # these kept copies of ids in unused parts of their pages
        "DROP INDEX events_user_id",
    ),
)


def migrate(engine: Engine, name: str, steps: tuple[Step, ...] = STEPS, create: bool = True) -> None:
    """Apply the steps that the database lacks: all of them or none, and only one process at a time.

    Raises InputError, which calls the database `name`, when its schema is newer than the last step, when its tables are
    another program's, and without `create` when it has none.
    """
    with engine.connect().execution_options(reads=True) as connection:
        missing = _missing(connection, name, steps)
    if missing == 0:
        return
    if missing == len(steps) and not create:
        raise InputError(f"{name}: expected a feedback store, found no tables; `musix serve --feedback` makes one")
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")  # another process may migrate for minutes
            connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
        missing = _missing(connection, name, steps)
        for step in steps[len(steps) - missing :]:
            for statement in step:
                connection.exec_driver_sql(statement.format(serial=SERIAL[engine.dialect.name]))
        if missing:
            SCHEMA_VERSION.create(connection, checkfirst=True)
            connection.execute(delete(SCHEMA_VERSION))
            connection.execute(insert(SCHEMA_VERSION).values(version=len(steps)))


def _missing(connection: Connection, name: str, steps: tuple[Step, ...]) -> int:
    """Return the number of steps that were not applied yet. Raises InputError: see `migrate`."""
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return len(steps)
    if not tables >= OWN_TABLES:
        found = shorten(", ".join(sorted(tables)))
        raise InputError(f"{name}: expected a feedback store or an empty database, found other tables: {found}")
    version: Any = connection.execute(select(SCHEMA_VERSION.c.version)).scalar()
    if not isinstance(version, int) or version < 1:  # SQLite keeps any value in a column of integers
        raise InputError(f"{name}: expected a version of the schema, found {shorten(repr(version))}")
    if version > len(steps):
        raise InputError(
            f"{name}: expected a schema of version {len(steps)} or older, found {version}; use a newer musix-edge"
        )
    return len(steps) - version
