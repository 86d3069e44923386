"""Figures: how those of a bundle's card are shown."""

from typing import Any


def shown(value: Any) -> str:
    """Whole numbers with commas, others with four digits, one after the other in a list; texts as they are."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
