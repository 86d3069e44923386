"""Tables that a user brings: reading CSV or parquet, and checking columns, types, ranges and rows."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from musix_runtime.errors import TableError

Kind = Literal["text", "number", "bool", "time"]


@dataclass(frozen=True)
class Column:
    """A column of a schema; numbers lie in `low`..`high`. An optional one may be absent and may have nulls."""

    name: str
    kind: Kind
    low: float = float("-inf")
    high: float = float("inf")
    optional: bool = False


@dataclass
class Source:
    """A table with its name for messages, its identity, and notes on what became of its rows."""

    frame: pl.DataFrame
    where: str
    sha256: str
    simulated: bool = False
    notes: dict[str, int | str] = field(default_factory=dict)
    rows: int = 0  # as read

    def __post_init__(self) -> None:
        self.rows = self.rows or self.frame.height

    def keep(self, condition: pl.Expr, reason: str) -> None:
        """Drop the rows that do not meet the condition, and note how many, and why."""
        kept = self.frame.filter(condition)
        if kept.height < self.frame.height:
            self.notes[f"dropped: {reason}"] = self.frame.height - kept.height
        if not kept.height:
            raise TableError(f"{self.where}: expected rows, found none after dropping: {self.notes}")
        self.frame = kept


def read(path: Path) -> Source:
    """Read a `.csv` or `.parquet` file. Raises TableError when it is missing, unreadable or empty."""
    try:
        content = path.read_bytes()
        notes: dict[str, int | str] = {}
        if path.suffix == ".csv":
            # The index column of the downloaded CSV has no name.
            frame = pl.read_csv(content, infer_schema_length=None, try_parse_dates=False).select(
                pl.exclude("", "Unnamed: 0")
            )
        elif path.suffix == ".parquet":
            frame = pl.read_parquet(content)
            derivation = pl.read_parquet_metadata(path).get("derivation")
            notes = {"derivation": derivation} if derivation else {}
        else:
            raise TableError(f"{path}: expected a .csv or .parquet file, found {path.suffix or 'no suffix'}")
    except OSError as error:
        raise TableError(f"{path}: expected a table, found: {error.strerror}") from error
    except pl.exceptions.PolarsError as error:
        raise TableError(f"{path}: expected a readable table with a header, found: {error}") from error
    return Source(frame, str(path), hashlib.sha256(content).hexdigest(), notes=notes)


def check(source: Source, schema: list[Column], key: str) -> None:
    """Bring the columns to the schema's types and check them; rows with nulls are dropped and noted.

    Raises TableError that names table, column, row, what was expected and what was found.
    """
    frame, where = source.frame, source.where
    missing = [each.name for each in schema if not each.optional and each.name not in frame.columns]
    if missing:
        raise TableError(f"{where}: expected the columns {', '.join(missing)}, found only {', '.join(frame.columns)}")
    if not frame.height:
        raise TableError(f"{where}: expected rows, found none")
    present = [each for each in schema if each.name in frame.columns]
    source.frame = frame.select(_typed(frame, each, where) for each in present)
    for column in present:
        if not column.optional:
            source.keep(pl.col(column.name).is_not_null(), f"no {column.name}")
    for column in present:
        _check_range(source.frame, column, where, key)


def _typed(frame: pl.DataFrame, column: Column, where: str) -> pl.Series:
    series = frame[column.name]
    if column.kind == "time":
        typed = _time(series)
    elif column.kind == "bool":
        words = series.cast(pl.String).str.to_lowercase()
        typed = words.replace_strict(
            {"true": True, "false": False, "1": True, "0": False}, default=None, return_dtype=pl.Boolean
        )
    elif column.kind == "number":
        typed = series.cast(pl.Float64, strict=False).fill_nan(None)
    else:
        typed = series.cast(pl.String).str.strip_chars().replace("", None)
    bad = (typed.is_null() & series.is_not_null() & (series.cast(pl.String).str.strip_chars() != "")).arg_true()
    if column.kind != "text" and len(bad):
        nan = series.dtype.is_float() and series[bad].is_nan().all()
        if not nan:
            row = bad[0]
            raise TableError(
                f"{where}: {column.name}: expected a {column.kind}, found {series[row]!r} in row {row + 1}"
                f" ({len(bad):,} such rows)"
            )
    return typed.alias(column.name)


def _time(series: pl.Series) -> pl.Series:
    """Seconds since 1970, from dates, times, ISO 8601 text (also a bare year or month) or such seconds."""
    if series.dtype.is_numeric():
        return series.cast(pl.Int64, strict=False)
    if series.dtype.is_temporal():
        return series.cast(pl.Datetime("us")).dt.epoch("s")
    text = series.cast(pl.String).str.strip_chars().str.replace(r"Z$", "").str.replace("T", " ")
    text = text.str.replace(r"^(\d{4})$", "$1-01-01").str.replace(r"^(\d{4}-\d{2})$", "$1-01")
    whole = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False)
    return whole.fill_null(text.str.to_datetime("%Y-%m-%d", strict=False)).dt.epoch("s")


def _check_range(frame: pl.DataFrame, column: Column, where: str, key: str) -> None:
    if column.kind != "number":
        return
    wrong = frame.filter(~pl.col(column.name).is_between(column.low, column.high))
    if wrong.height:
        first = wrong.row(0, named=True)
        raise TableError(
            f"{where}: {column.name}: expected {column.low:g}..{column.high:g}, found {first[column.name]:g}"
            f" at {key} {first[key]!r} ({wrong.height:,} such rows)"
        )
