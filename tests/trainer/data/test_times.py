"""Times of tables, compared with Python's own reading of ISO 8601."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from musix_runtime.errors import TableError
from musix_trainer.data.tables import Column, Table, check

OFFSETS = st.none() | st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIMES = st.datetimes(datetime(1900, 1, 2), datetime(2199, 12, 30), timezones=OFFSETS)


def read(texts: list[str]) -> list[int]:
    """Return the seconds since 1970 of a column of times."""
    source = Table(pl.DataFrame({"at": texts}), "listening.csv", "")
    check(source, [Column("at", "time")], "at")
    return source.frame["at"].to_list()


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(TIMES, st.sampled_from("T "), st.sampled_from(["minutes", "seconds", "microseconds"])), min_size=1
    )
)
@example([(datetime(1969, 12, 31, 23, 59, 59, 999_999), "T", "microseconds")])
def test_times_are_those_that_python_reads(times: list[tuple[datetime, str, str]]) -> None:
    texts = [time.isoformat(separator, unit) for time, separator, unit in times]
    parsed = [datetime.fromisoformat(text) for text in texts]
    utc = [time if time.tzinfo else time.replace(tzinfo=UTC) for time in parsed]
    assert read(texts) == [(time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1) for time in utc]


@pytest.mark.parametrize("kind", ["time", "text", "number"])
@pytest.mark.parametrize(
    ("value", "dtype"),
    [(2**31 - 1, pl.Date), (-(2**31), pl.Date), (2**62, pl.Datetime("us")), (2**55, pl.Datetime("ms"))],
)
def test_dates_beyond_the_calendar_are_refused(kind: Any, value: int, dtype: Any) -> None:
    frame = pl.DataFrame(
        {"at": pl.Series([0, value, None], dtype=pl.Int64).cast(pl.Int32 if dtype == pl.Date else pl.Int64).cast(dtype)}
    )
    with pytest.raises(
        TableError, match=r"t\.parquet: at: expected dates of the years 1 to 9999, found day .* in row 2"
    ):
        check(Table(frame, "t.parquet", ""), [Column("at", kind)], "at")


@pytest.mark.parametrize("text", ["2026-05-04T12:00Z", "2026-05-04 14:00:00+02", "2026-05-04 10:00:00.0 -0200"])
def test_short_offsets_are_read(text: str) -> None:
    assert read([text]) == [int(datetime(2026, 5, 4, 12, tzinfo=UTC).timestamp())]


@pytest.mark.parametrize(
    "text",
    ["31/05/2026 10:00", "2026-05-04T14:00+24:00", "2026-05-04+02:00", "2026-05-04 14:00 CET", "14:00", "2026-02-30"],
)
def test_other_texts_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(TableError) as caught:
        read(["2026-05-04", text])
    expected = "expected a time, such as 2026-01-31T20:00:00Z or seconds since 1970"
    assert str(caught.value) == f"listening.csv: at: {expected}, found {text!r} in row 2 (1 in all)"
