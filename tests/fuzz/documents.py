"""Mutations of decoded JSON, which replace any value by another one."""

from typing import Any

import numpy as np

TEXTS = (
    "", " ", "x" * 100_000, "\0", "\r\nX-Evil: 1", "\u202e", "\ud800", "é", "𝄞" * 50, "../..", "NaN", "1",
    "spotify:track:", "\x7f", "\x1b[2J",
)  # fmt: skip
NUMBERS = (
    0, 1, 2, -1, 3, 255, 10_000, 2**31, 2**31 - 1, 2**32, 2**47, 2**48 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 10**30,
    0.5, -0.0, 1e-300, 1e308, -1e308, 1.0000001,
)  # fmt: skip
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [None], {"": None}, [[[[]]]], {"a": {"b": {"c": [1, "x"]}}})


def nested(depth: int, rng: np.random.Generator) -> Any:
    """Return nested lists or objects."""
    result: Any = 1
    in_list = rng.random() < 0.5
    for _ in range(depth):
        result = [result] if in_list else {"a": result}
    return result


def wild(rng: np.random.Generator, old: Any) -> Any:
    """Return another value, usually of the same type as `old`."""
    same: tuple[Any, ...] = TEXTS if isinstance(old, str) else NUMBERS
    if isinstance(old, int | float | str) and not isinstance(old, bool) and rng.random() < 0.7:
        return same[int(rng.integers(len(same)))]
    every = (*TEXTS, *NUMBERS, *OTHERS)
    return every[int(rng.integers(len(every)))]


def mutate(root: Any, rng: np.random.Generator) -> str:
    """Change one value in `root`, an object or a list. Return a description."""
    path, place = "", root
    while True:
        names: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not names:
            return f"{path}: nothing"
        name = names[int(rng.integers(len(names)))]
        path += f".{name}"
        inner = place[name]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.15:
            return f"{path}: {_change(place, name, rng)}"
        place = inner


def _change(place: Any, name: Any, rng: np.random.Generator) -> str:
    how = rng.random()
    if how < 0.7:
        place[name] = wild(rng, place[name])
        return repr(place[name])[:60]
    if how < 0.8:
        del place[name]
        return "deleted"
    if isinstance(place, list):
        place += [place[name]] * int(rng.choice([1, 2, 2000]))
        return "repeated"
    if how < 0.9:
        place[TEXTS[int(rng.integers(len(TEXTS)))]] = place[name]
        return "under another key, too"
    place[name] = nested(int(rng.choice([50, 400, 900])), rng)
    return "nested"
