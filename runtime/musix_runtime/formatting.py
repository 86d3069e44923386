"""Formatting of the values of a bundle's card."""

from typing import Any


def shown(value: Any) -> str:
    """Return a value as text: integers with commas, floats with four digits, the items of a list joined by commas."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
