"""TOML of people we never met: read without taking long for keys of thousands of parts, which have as many dots."""

import tomllib
from typing import Any

MAX_DOTS = 300  # of a line, in which a key is: tomllib takes a time that grows with the square of its parts


def parse(text: bytes) -> dict[str, Any]:
    """Return the tables of a text. Raises ValueError unless it is TOML in UTF-8, with few dots in a line."""
    for number, line in enumerate(text.split(b"\n"), 1):
        if (dots := line.count(b".")) > MAX_DOTS:
            raise ValueError(f"{dots:,} dots in line {number:,}, at most {MAX_DOTS} are allowed")
    try:
        return tomllib.loads(text.decode())
    except RecursionError as error:
        raise ValueError("values that are nested too deeply") from error
