"""User tables: read CSV or parquet, and check columns, types, ranges and rows."""

import datetime
import hashlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from musix_runtime.errors import InputError, TableError, shorten
from musix_runtime.input_file import read_input
from musix_runtime.models.catalog import MAX_TEXT_BYTES

_READER = """
import os, re, sys, polars
free_rows, byte_rows, free_bytes, byte_bytes = map(int, sys.argv[1:])
for path in map(os.fsdecode, sys.stdin.buffer.read().split(b"\\0")):
    size = os.path.getsize(path)
    rows = polars.scan_parquet(path, glob=False).select(polars.len()).collect().item()
    if rows > (most := free_rows + byte_rows * size):
        raise ValueError(f"{rows:,} rows; a file of this size may have {most:,}")
    most = free_bytes + byte_bytes * size
    if sys.platform == "linux":
        import resource
        used = 1024 * int(re.search(r"VmData:\\s+(\\d+)", open("/proc/self/status").read())[1])
        resource.setrlimit(resource.RLIMIT_DATA, (used + most, resource.RLIM_INFINITY))
    frame = polars.read_parquet(path, glob=False)
    text = sum(each.str.len_bytes().sum() for each in frame.iter_columns() if each.dtype == polars.String)
    if text > most:
        raise ValueError(f"{text:,} bytes of text; a file of this size may have {most:,}")
    os.write(1, b".")
"""
# Bounds of a parquet file: any, and more for each byte. Repeated values take almost no bytes of a file.
FREE_ROWS, BYTE_ROWS = 2_000_000, 10
FREE_BYTES, BYTE_BYTES = 2**30, 100  # in memory
MAX_BYTES = 16 * 2**30  # of a file
FREE_CELLS, MAX_CSV_COLUMNS = 2**26, 10_000  # of a CSV: any, and one more for each byte; polars pads short rows
# First bytes of CSV files that are no text in UTF-8. Polars would decompress gzip, zstd and zlib without a bound.
OTHER_BYTES = {
    "compressed": (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x78\x01", b"\x78\x9c", b"\x78\xda"),
    "UTF-16": (b"\xff\xfe", b"\xfe\xff"),
}
Kind = Literal["text", "number", "bool", "time"]


@dataclass(frozen=True)
class Column:
    """A column of a schema. Numbers are in `low`..`high`. An optional column may be absent, and may have nulls."""

    name: str
    kind: Kind
    low: float = float("-inf")
    high: float = float("inf")
    optional: bool = False


@dataclass
class Table:
    """A table with its name for messages, its SHA-256, and notes on how its rows were read or dropped."""

    frame: pl.DataFrame
    name: str
    sha256: str
    simulated: bool = False
    notes: dict[str, int | str] = field(default_factory=dict)
    rows: int = 0  # as read
    _dropped: list[str] = field(default_factory=list)  # what the rows have that were dropped, for messages

    def __post_init__(self) -> None:
        self.rows = self.rows or self.frame.height

    def keep(self, condition: pl.Expr, reason: str, phrase: str = "", column: str = "track_id") -> None:
        """Drop the rows that do not meet the condition, and note their number and the reason.

        Raises TableError when no row is left. Its message says of the rows what `phrase` does, which begins with a verb
        in the plural ("have" and the reason, if it is not given), and shows one of their values of `column`.
        """
        remaining = self.frame.filter(condition)
        if dropped := self.frame.height - remaining.height:
            self.notes[f"dropped: {reason}"] = dropped
            example = self.frame[column][0] if not remaining.height and column in self.frame.columns else None
            self._dropped.append(_sentence(dropped, phrase or f"have {reason}", example))
        if not remaining.height:
            raise TableError(f"{self.name}: expected rows, found none: {', and '.join(self._dropped)}")
        self.frame = remaining


def _sentence(count: int, phrase: str, example: str | None) -> str:
    verb, _, rest = phrase.partition(" ")
    if count == 1:
        verb = {"have": "has", "are": "is"}.get(verb, f"{verb}s")
    return f"{count:,} {verb} {rest}" + ("" if example is None else f", such as {repr(example)[:60]}")


def read(path: Path) -> Table:
    """Read a `.csv` or `.parquet` file. Raises TableError when it is missing, unreadable or empty."""
    (table,) = read_all([path])
    return table


def read_all(paths: Sequence[Path]) -> list[Table]:
    """Read several files, in order: see `read`."""
    _check_parquet([path for path in paths if path.suffix == ".parquet" and path.is_file()])
    return [_read(path) for path in paths]


def _read(path: Path) -> Table:
    try:
        content = read_input(path, MAX_BYTES)
    except InputError as error:
        raise TableError(f"{path}: expected a table, found: {error}") from error
    for kind, first in OTHER_BYTES.items():
        if path.suffix == ".csv" and content.startswith(first):
            raise TableError(f"{path}: expected text in UTF-8, found {kind} text")
    try:
        notes: dict[str, int | str] = {}
        if path.suffix == ".csv":
            _check_cells(content, path)
            # Text only: an id of digits is not a number. The index column of the downloaded CSV has no name.
            frame = pl.read_csv(content, infer_schema=False).select(pl.exclude("", "Unnamed: 0"))
        elif path.suffix == ".parquet":
            frame = pl.read_parquet(content)
            derivation = pl.read_parquet_metadata(path).get("derivation")
            notes = {"derivation": derivation} if derivation else {}
        else:
            raise TableError(f"{path}: expected a .csv or .parquet file, found {path.suffix or 'no suffix'}")
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: expected a table, found: {getattr(error, 'strerror', None) or error}") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        if path.suffix == ".csv":
            _check_utf8(content, path)
        first_line = str(error).partition("\n")[0]
        header = content.partition(b"\n")[0].decode(errors="replace").split(",")
        hint = _describe_separator(header) if path.suffix == ".csv" else ""
        raise TableError(f"{path}: expected a readable table with a header, found: {first_line}{hint}") from error
    return Table(frame, str(path), hashlib.sha256(content).hexdigest(), notes=notes)


def _check_cells(content: bytes, path: Path) -> None:
    """Raise TableError when rows with fewer fields than the header would be padded to far more than was written."""
    columns, rows = content.partition(b"\n")[0].count(b",") + 1, content.count(b"\n")
    if columns > MAX_CSV_COLUMNS:
        raise TableError(f"{path}: expected at most {MAX_CSV_COLUMNS:,} columns, found {columns:,}")
    if columns * rows > FREE_CELLS + len(content):
        raise TableError(f"{path}: expected a value for each of {columns:,} columns, found shorter rows")


def _check_utf8(content: bytes, path: Path) -> None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        byte = f"byte 0x{content[error.start]:02x} in line {line:,}"
        raise TableError(f"{path}: expected text in UTF-8, found {byte}; save it as UTF-8") from error


def write(path: Path, frame: pl.DataFrame, metadata: dict[str, str] | None = None) -> None:
    """Write a new parquet file. Raises OSError, which polars would hide."""
    content = io.BytesIO()
    frame.write_parquet(content, metadata=metadata)
    path.write_bytes(content.getvalue())


def _check_parquet(paths: Sequence[Path]) -> None:
    """Read the files in a child process, as a damaged file can crash its reader. Raises TableError."""
    if not paths:
        return
    # -P: do not import modules from the working folder.
    command = [sys.executable, "-P", "-c", _READER, *map(str, (FREE_ROWS, BYTE_ROWS, FREE_BYTES, BYTE_BYTES))]
    result = subprocess.run(command, input=b"\0".join(map(os.fsencode, paths)), capture_output=True)
    if not result.returncode:
        return
    place = f"{paths[min(len(result.stdout), len(paths) - 1)]}: expected a readable table, found"
    if result.returncode < 0:
        larger = ", or takes more memory than its size allows" if result.returncode == -signal.SIGABRT else ""
        raise TableError(f"{place} one that crashes its reader (signal {-result.returncode}){larger}")
    lines = [line for line in result.stderr.decode(errors="replace").splitlines() if line.strip()]
    message = lines[-1].partition(": ")[2] if lines else ""
    raise TableError(f"{place}: {message or 'a damaged one'}")


def check(source: Table, schema: list[Column], key: str) -> None:
    """Cast the columns to the schema's types and check their ranges; drop and note rows with nulls.

    Raises TableError with table, column, row, and the expected and found values.
    """
    frame, name = source.frame, source.name
    missing = [each.name for each in schema if not each.optional and each.name not in frame.columns]
    if missing:
        found = f"found only {shorten(', '.join(frame.columns), 300)}{_describe_separator(frame.columns)}"
        raise TableError(f"{name}: expected the columns {', '.join(missing)}, {found}")
    if not frame.height:
        raise TableError(f"{name}: expected rows, found none")
    present = [each for each in schema if each.name in frame.columns]
    source.frame = frame.select(_typed(frame, each, name) for each in present)
    for column in present:
        if not column.optional:
            source.keep(pl.col(column.name).is_not_null(), f"no {column.name}")
    for column in present:
        _check_range(source.frame, column, name, key)


def text_codes(texts: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of each text in their order, the same for equal ones. Shape (n,).

    It takes memory for the texts alone: numpy would give each the width of the longest.
    """
    return pl.Series(texts, dtype=pl.String).rank("dense").cast(pl.Int64).to_numpy() - 1


def check_once(source: Table, column: str) -> None:
    """Raise TableError for a value that several rows have: a join would repeat what belongs to it."""
    values = source.frame[column]
    repeated = values.filter(values.is_duplicated())
    if len(repeated):
        raise TableError(f"{source.name}: {column}: expected each once, found {repr(repeated[0])[:60]} again")


def _describe_separator(columns: list[str]) -> str:
    """Return what to do about a header that is one column because other separators than commas are in it."""
    separators = [each for each in ";\t" if len(columns) == 1 and each in columns[0]]
    return f"; separate the columns by commas, found {separators[0]!r}" if separators else ""


def _typed(frame: pl.DataFrame, column: Column, name: str) -> pl.Series:
    series = frame[column.name]
    if series.dtype.is_nested() or (column.kind == "number" and series.dtype == pl.Boolean):
        raise TableError(f"{name}: {column.name}: expected {_WORDS[column.kind]}, found type {series.dtype}")
    _check_years(series, f"{name}: {column.name}")
    try:
        text = series.cast(pl.String).str.strip_chars()
        typed = _CASTS[column.kind](series, text)
    except pl.exceptions.PolarsError as error:
        raise TableError(f"{name}: {column.name}: expected {_WORDS[column.kind]}, found type {series.dtype}") from error
    bad = (typed.is_null() & ~text.str.to_lowercase().is_in(["", "nan"])).arg_true()
    if len(bad):
        raise TableError(
            f"{name}: {column.name}: expected {_WORDS[column.kind]}, found {repr(series[bad[0]])[:60]}"
            f" in row {bad[0] + 1} ({len(bad):,} in all)"
        )
    return typed.alias(column.name)


def _check_years(series: pl.Series, place: str) -> None:
    """Raise TableError for a date beyond the calendar of polars, which would end the process."""
    if not isinstance(series.dtype, pl.Date | pl.Datetime):
        return
    day = _OF_A_DAY[series.dtype.time_unit] if isinstance(series.dtype, pl.Datetime) else 1
    days = series.to_physical().cast(pl.Int64) // day
    first, last = (date.toordinal() - _EPOCH.toordinal() for date in (datetime.date.min, datetime.date.max))
    wrong = (~days.is_between(first, last)).fill_null(False).arg_true()
    if len(wrong):
        found = f"day {days[wrong[0]]:,} after 1970 in row {wrong[0] + 1}"
        raise TableError(f"{place}: expected dates of the years 1 to 9999, found {found} ({len(wrong):,} in all)")


def _number(series: pl.Series, text: pl.Series) -> pl.Series:
    return (text if series.dtype == pl.String else series).cast(pl.Float64, strict=False).fill_nan(None)


def _bool(series: pl.Series, text: pl.Series) -> pl.Series:
    words = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
    return text.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean)


def _text(series: pl.Series, text: pl.Series) -> pl.Series:
    return text.replace("", None)


def _time(series: pl.Series, text: pl.Series) -> pl.Series:
    """Return seconds since 1970, from dates, times, ISO 8601 text (also only a year, a month, or a time without its
    seconds; UTC unless it has an offset) or such seconds."""
    if series.dtype in (pl.Date, pl.Datetime):
        return series.cast(pl.Datetime("us")).dt.epoch("s")
    if series.dtype.is_temporal():
        raise pl.exceptions.InvalidOperationError("a time needs its day")
    number = pl.when(text.str.contains(r"^-?\d{5,}(\.\d+)?$")).then(text.cast(pl.Float64, strict=False))
    seconds = number.cast(pl.Int64, strict=False)
    offset = _offset_seconds(text.str.extract(_OFFSET, 2))
    text = text.str.replace(_OFFSET, "$1").str.replace(r"Z$", "").str.replace("T", " ")
    text = text.str.replace(r"^(\d{4})$", "$1-01-01").str.replace(r"^(\d{4}-\d{2})$", "$1-01")
    formats = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
    times = [text.str.to_datetime(each, strict=False).dt.epoch("s") - offset for each in formats]
    return pl.select(pl.coalesce(seconds, *times)).to_series()


def _offset_seconds(offset: pl.Series) -> pl.Series:
    """Return how far the offsets `+HH:MM` are ahead of UTC, in seconds; 0 for null."""
    digits = offset.str.replace(":", "").str.slice(1).str.pad_end(4, "0").cast(pl.Int64)
    seconds = digits // 100 * 3600 + digits % 100 * 60
    return pl.select(pl.when(offset.str.starts_with("-")).then(-seconds).otherwise(seconds).fill_null(0)).to_series()


_OF_A_DAY = {"ms": 86_400 * 10**3, "us": 86_400 * 10**6, "ns": 86_400 * 10**9}
_EPOCH = datetime.date(1970, 1, 1)
_OFFSET = r"(:\d{2}(?:\.\d+)?) ?([+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)$"  # behind minutes or seconds
_CASTS = {"number": _number, "bool": _bool, "text": _text, "time": _time}
_WORDS = {
    "number": "a number",
    "bool": "true or false",
    "text": "text",
    "time": "a time, such as 2026-01-31T20:00:00Z or seconds since 1970",
}
# Range of a time in seconds: 1860 (the oldest recording) to 2200. Milliseconds are far above it.
_TIMES = (-3_471_292_800, 7_258_118_400)
ID_LIMIT = 128  # bytes; ids are stored at a fixed width, so that one long id would widen all


def _check_range(frame: pl.DataFrame, column: Column, name: str, key: str) -> None:
    value = pl.col(column.name)
    if column.kind == "number":
        wrong = ~(value.is_between(column.low, column.high) & value.is_finite())
        expected = f"{column.low:g}..{column.high:g}" if column.low > float("-inf") else "a finite number"
    elif column.kind == "time":
        wrong, expected = ~value.is_between(*_TIMES), "seconds since 1970"
    elif column.name.endswith("_id"):
        wrong = (value.str.len_bytes() > ID_LIMIT) | value.str.contains("\0", literal=True)
        expected = f"at most {ID_LIMIT} bytes without NUL"
    elif column.kind == "text":
        wrong, expected = value.str.len_bytes() > MAX_TEXT_BYTES, f"at most {MAX_TEXT_BYTES:,} bytes"
    else:
        return
    bad = frame.filter(wrong)
    if bad.height:
        first = bad.row(0, named=True)
        value_text = f"{first[column.name]:g}" if column.kind == "number" else repr(first[column.name])[:60]
        place = f"{key} {first[key][:60]!r}" if first.get(key) else f"a row without {key}"
        raise TableError(
            f"{name}: {column.name}: expected {expected}, found {value_text} at {place} ({bad.height:,} in all)"
        )
