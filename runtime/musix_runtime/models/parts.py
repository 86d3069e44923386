"""The registered parts of a bundle. To add a part, write a module with a `Part` and one line here."""

from pathlib import Path
from typing import Any

from musix_runtime.bundle.part import Layout, Part
from musix_runtime.bundle.reader import Bundle
from musix_runtime.models import artists, catalog, collab, content, genre, mood, ranker

MODELS: tuple[Part[Any], ...] = (
    genre.PART,
    mood.PART,
    artists.PART,
    collab.PART,
    content.PART,
    ranker.PART,
)
PARTS: tuple[Part[Any], ...] = (catalog.PART, *MODELS)
LAYOUT = Layout(PARTS)


def open_bundle(path: str | Path, trust: str | Path | None = None, parts: tuple[Part[Any], ...] = PARTS) -> Bundle:
    """Return the verified bundle at `path`, with all registered parts: see `Bundle.open`."""
    return Bundle.open(path, parts, trust)
