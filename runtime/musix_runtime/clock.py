"""Times: milliseconds since 1970 in UTC."""

import time
from datetime import UTC, datetime


def now_ms() -> int:
    """Return the present time."""
    return time.time_ns() // 1_000_000


def to_datetime(milliseconds: int) -> datetime:
    """Return a time as a datetime in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def format_time(milliseconds: int) -> str:
    """Return a time as text, in seconds."""
    return datetime.fromtimestamp(milliseconds // 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
