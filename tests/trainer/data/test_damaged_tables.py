"""Damaged tables: one-sentence errors, even when the parser panics or crashes."""

import gzip
import io
import os
import random
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from musix_runtime.errors import TableError
from musix_trainer.data import tables
from musix_trainer.data.tables import Column


def damaged(seed: int) -> bytes:
    """Return a parquet file with some flipped bits. The seeds below make polars 1.42 panic, past `except Exception`."""
    file, rng = io.BytesIO(), random.Random(seed)
    rows = range(500)
    frame = pl.DataFrame({"id": [f"t{i}" for i in rows], "x": [i / 7 for i in rows], "l": [[i, i + 1] for i in rows]})
    frame.write_parquet(file)
    content = bytearray(file.getvalue())
    for _ in range(rng.choice([1, 2, 8])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


@pytest.mark.parametrize("seed", [25, 393, 523])
def test_read_refuses_a_parquet_file_that_makes_polars_panic(tmp_path: Path, seed: int) -> None:
    (tmp_path / "tracks.parquet").write_bytes(damaged(seed))
    with pytest.raises(TableError, match=r"tracks\.parquet: expected a readable table, found: "):
        tables.read(tmp_path / "tracks.parquet")


def test_the_damaged_one_of_several_files_is_named(tmp_path: Path) -> None:
    names = "a.parquet", "b.csv", "damaged.parquet", "c.parquet"
    for name in names:
        pl.DataFrame({"a": [1]}).write_parquet(tmp_path / name)
    (tmp_path / "damaged.parquet").write_bytes(damaged(25))
    with pytest.raises(TableError, match=r"/damaged\.parquet: expected a readable table, found: "):
        tables.read_all([tmp_path / name for name in names])


def test_a_small_file_of_many_equal_rows_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    rows = tables.FREE_ROWS + 1_000_000
    pl.select(id=pl.repeat("t" * 100, rows)).write_parquet(tmp_path / "plays.parquet", row_group_size=rows)
    with pytest.raises(
        TableError, match=r"plays\.parquet: expected a readable table, found: 3,000,000 rows; a file of"
    ):
        tables.read(tmp_path / "plays.parquet")


def test_a_small_file_of_long_texts_is_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    pl.select(id=pl.repeat("t" * 20_000, 100_000)).write_parquet(tmp_path / "plays.parquet")
    with pytest.raises(
        TableError, match=r"plays\.parquet: .*, found: 2,000,000,000 bytes of text; a file of this size"
    ):
        tables.read(tmp_path / "plays.parquet")


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")
def test_a_small_file_of_many_columns_or_nested_values_is_refused(tmp_path: Path) -> None:
    column = pl.repeat(0, 1_000_000, dtype=pl.Int64)
    wide = pl.select(column.alias(f"c{i}") for i in range(200))
    nested = pl.DataFrame({"id": [pl.repeat(0, 150_000_000, dtype=pl.Int64, eager=True)]})
    for name, frame in (("wide", wide), ("nested", nested)):
        frame.write_parquet(tmp_path / f"{name}.parquet")
        with pytest.raises(
            TableError, match=rf"{name}\.parquet: .*, found one that crashes its reader .*, or takes more mem"
        ):
            tables.read(tmp_path / f"{name}.parquet")


def test_a_csv_of_short_rows_is_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    header = ",".join(f"c{i}" for i in range(2000))
    (tmp_path / "plays.csv").write_text(header + "\n" + "a\n" * 200_000)
    with pytest.raises(TableError, match=r"plays\.csv: expected a value for each of 2,000 columns, found shorter rows"):
        tables.read(tmp_path / "plays.csv")
    (tmp_path / "plays.csv").write_text(",".join(f"c{i}" for i in range(10_001)) + "\na\n")
    with pytest.raises(TableError, match=r"plays\.csv: expected at most 10,000 columns, found 10,001"):
        tables.read(tmp_path / "plays.csv")


def test_one_long_text_takes_no_memory_for_the_others() -> None:
    texts = ["b", "\u00e9" * 100_000, "a", "\U0001f600", "b", "\uffff"] + ["c"] * 200_000
    tracemalloc.start()
    codes = tables.text_codes(texts)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert codes[:7].tolist() == [1, 3, 0, 5, 1, 4, 2]
    assert peak < 50 * 2**20


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_pipes_and_devices_are_refused(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"pipe.{suffix}")
    (tmp_path / f"zeros.{suffix}").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        with pytest.raises(TableError, match=rf"{name}\.{suffix}: expected a table, found: a pipe or device"):
            tables.read(tmp_path / f"{name}.{suffix}")


def test_the_line_of_a_csv_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "plays.csv").write_bytes("a,b\nx,y\nCaf\u00e9,1\n".encode("latin-1"))
    with pytest.raises(TableError, match=r"expected text in UTF-8, found byte 0xe9 in line 3; save it as UTF-8$"):
        tables.read(tmp_path / "plays.csv")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "compressed"),
        (zlib.compress(b"a\n1\n"), "compressed"),
        ("a\n1\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_a_csv_in_another_encoding_is_named(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "plays.csv").write_bytes(content)
    with pytest.raises(TableError, match=rf"plays\.csv: expected text in UTF-8, found {found} text"):
        tables.read(tmp_path / "plays.csv")


@pytest.mark.parametrize(("kind", "value"), [("number", True), ("text", {"a": 1}), ("text", [1]), ("number", [1.0])])
def test_other_types_are_not_converted(kind: Any, value: object) -> None:
    frame = pl.DataFrame({"track_id": ["t"], "x": [value]})
    with pytest.raises(TableError, match=r"plays: x: expected .*, found type"):
        tables.check(tables.Table(frame, "plays", ""), [Column("track_id", "text"), Column("x", kind)], "track_id")


@pytest.mark.parametrize("name", ["plays [1].parquet", "plays*.parquet", "pläys?.parquet"])
def test_names_are_no_patterns(tmp_path: Path, name: str) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / name)
    assert tables.read(tmp_path / name).frame.height == 1


def test_read_refuses_a_parquet_file_that_crashes_polars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tracks.parquet").write_bytes(damaged(0))
    (tmp_path / "python").write_text("#!/bin/sh\nkill -ABRT $$\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(TableError, match=r"found one that crashes its reader \(signal 6\)"):
        tables.read(tmp_path / "tracks.parquet")


@pytest.mark.parametrize(
    ("kind", "found"), [("number", "inf"), ("time", "'99999"), ("bool", "'99999"), ("text", "'99999")]
)
def test_check_refuses_a_number_of_5000_digits(tmp_path: Path, kind: str, found: str) -> None:
    (tmp_path / "plays.csv").write_text(f"user_id,value\na,{'9' * 5000}\n")
    source = tables.read(tmp_path / "plays.csv")
    schema = [Column("user_id", "text"), Column("value", kind)]
    with pytest.raises(TableError, match=rf"plays\.csv: value: expected .*, found {found}"):
        tables.check(source, schema, "user_id")
