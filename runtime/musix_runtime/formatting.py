"""Formatting of values and of names for a terminal."""

import re
from typing import Any

# C0 and C1 controls, which include the escape sequences of terminals; separators of lines; controls of text direction.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def format_value(value: Any) -> str:
    """Return a value as text: integers with commas, floats with four digits, the items of a list joined by commas."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(format_value, value))
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_count(count: int, noun: str) -> str:
    """Return a number of things as text: `1 play`, `1,200 plays`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_percent(share: float) -> str:
    """Return a share as a percentage with six digits at most: `20%`, `99.9999%`."""
    return f"{100 * share:.6g}%"


def escape_control_characters(text: str) -> str:
    """Return `text` on one line that a terminal shows as it is: control characters are escaped as in Python."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def escape_json(text: str) -> str:
    """Return JSON with the control characters of its strings escaped; msgspec leaves those beyond ASCII as they are."""
    return re.sub(f"(?!\n){_CONTROL.pattern}", lambda match: f"\\u{ord(match[0]):04x}", text)
