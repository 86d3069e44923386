"""TOML of people we never met: read without taking long for keys of thousands of parts."""

import re
import tomllib
from typing import Any

MAX_KEY_PARTS = 100  # tomllib takes a time that grows with their square


def parse(text: bytes) -> dict[str, Any]:
    """Return the tables of a text. Raises ValueError unless it is TOML in UTF-8, with short keys."""
    pieces = re.split(rb"[\n=,\[\]{}]", re.sub(rb"(?m)^#.*$", b"", text.translate(None, b" \t\r")))
    if max(piece.count(b".") for piece in pieces) >= MAX_KEY_PARTS:
        raise ValueError(f"a key of more than {MAX_KEY_PARTS} parts")
    try:
        return tomllib.loads(text.decode())
    except RecursionError as error:
        raise ValueError("values that are nested too deeply") from error
