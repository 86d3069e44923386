import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, inspect, select, text

from musix_runtime.errors import InputError
from musix_runtime.feedback import database as databases
from musix_runtime.feedback.migrations import STEPS, migrate
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.feedback.tables import EXPOSURES, METADATA, SCHEMA_VERSION

OPEN = "import sys; from musix_runtime.feedback.store import FeedbackStore; FeedbackStore.open(sys.argv[1])"


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    engine = databases.connect(databases.parse_url(database))
    yield engine
    engine.dispose()


def version(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(SCHEMA_VERSION.select()).scalar_one())


def test_steps_give_the_tables_of_this_program(engine: Engine) -> None:
    migrate(engine, "database")
    found = inspect(engine)
    assert set(found.get_table_names()) == set(METADATA.tables)
    for name, table in METADATA.tables.items():
        columns = {column["name"]: column["nullable"] for column in found.get_columns(name)}
        keys = {column.name for column in table.primary_key}
        assert list(columns) == table.columns.keys()
        assert {column.name: column.nullable for column in table.columns if column.name not in keys} == {
            column: nullable for column, nullable in columns.items() if column not in keys
        }
    assert [index["column_names"] for index in found.get_indexes("events") if index["unique"]] == [["event_id"]]


def test_only_the_missing_steps_are_applied(engine: Engine) -> None:
    migrate(engine, "database", STEPS)
    longer = (*STEPS, ("ALTER TABLE events ADD COLUMN country TEXT", "UPDATE events SET country = '?'"))
    migrate(engine, "database", longer)
    migrate(engine, "database", longer)
    assert "country" in {column["name"] for column in inspect(engine).get_columns("events")}
    assert version(engine) == len(longer)


def test_steps_are_applied_all_or_none(engine: Engine) -> None:
    migrate(engine, "database", STEPS)
    broken = (*STEPS, ("CREATE TABLE colours (name TEXT)",), ("ALTER TABLE nowhere ADD COLUMN x TEXT",))
    with pytest.raises(Exception, match="nowhere"):
        migrate(engine, "database", broken)
    assert not inspect(engine).has_table("colours")
    assert version(engine) == len(STEPS)


def test_a_newer_schema_is_refused(engine: Engine) -> None:
    migrate(engine, "database", (*STEPS, ()))
    expected = f"^database: expected a schema of version {len(STEPS)} or older, found {len(STEPS) + 1}; use a newer"
    with pytest.raises(InputError, match=expected):
        migrate(engine, "database")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM events")).scalar_one() == 0


@pytest.mark.parametrize("damaged", ["abc", None, -1, 1.5, "no row"])
def test_a_damaged_version_of_the_schema_is_refused(tmp_path: Path, damaged: object) -> None:
    url = f"sqlite:///{tmp_path / 'f.db'}"
    FeedbackStore.open(url).close()
    with sqlite3.connect(tmp_path / "f.db") as connection:
        connection.execute("CREATE TABLE copy (version)")
        connection.execute("DROP TABLE schema_version")
        connection.execute("ALTER TABLE copy RENAME TO schema_version")
        if damaged != "no row":
            connection.execute("INSERT INTO schema_version VALUES (?)", (damaged,))
    with pytest.raises(InputError, match=r"f\.db: expected a version of the schema, found"):
        FeedbackStore.open(url)


@pytest.mark.parametrize("create", [True, False])
def test_a_database_of_another_program_is_left_as_it_is(database: str, create: bool) -> None:
    other = create_engine(database)
    with other.begin() as connection:
        connection.execute(text("CREATE TABLE schema_version (version INTEGER)"))
        connection.execute(text("CREATE TABLE songs (title TEXT)"))
    url = databases.parse_url(database)
    before = Path(str(url.database)).read_bytes() if url.drivername == "sqlite" else b""
    found = "expected a feedback store or an empty database, found other tables: schema_version, songs"
    with pytest.raises(InputError, match=found):
        FeedbackStore.open(database, create)
    assert set(inspect(other).get_table_names()) == {"schema_version", "songs"}
    other.dispose()
    assert not before or Path(str(url.database)).read_bytes() == before


def test_an_empty_database_is_no_store_to_read_from(database: str, engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    with pytest.raises(InputError, match="expected a feedback store, found no tables; `musix serve --feedback` makes"):
        FeedbackStore.open(database, create=False)
    assert inspect(engine).get_table_names() == []
    FeedbackStore.open(database).close()
    FeedbackStore.open(database, create=False).close()


def test_processes_that_start_together_migrate_once(database: str, engine: Engine) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", OPEN, database]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert version(engine) == len(STEPS)


def test_rows_of_the_first_schema_are_kept(engine: Engine) -> None:
    migrate(engine, "database", STEPS[:1])
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO exposures (list_id, time_ms, user_id, bundle, digest, source, context, tracks)"
                 " VALUES ('l', 1, 'ann', 'demo-1.0.0', '', 'hybrid', '{}', '[]')")
        )  # fmt: skip
    migrate(engine, "database")
    with engine.connect() as connection:
        found = connection.execute(select(EXPOSURES.c["list_id", "experiment", "variant", "duration_us", "error"]))
        assert [tuple(row) for row in found] == [("l", None, None, None, None)]


def test_exposures_are_selected_by_experiment_with_an_index(engine: Engine) -> None:
    migrate(engine, "database")
    query = "SELECT * FROM exposures WHERE experiment = 'demo/1'"
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL enable_seqscan = off"))  # which it prefers for a small table
        explain = {"sqlite": "EXPLAIN QUERY PLAN", "postgresql": "EXPLAIN"}[engine.dialect.name]
        assert "exposures_experiment" in str(connection.execute(text(f"{explain} {query}")).all())
