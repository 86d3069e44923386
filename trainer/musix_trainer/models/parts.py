"""The registered parts of a run, in the order of training. A new part is a module with a `Part`, and a line here."""

from typing import Any

from musix_trainer.models import artists, collab, content, genre, item_stats, mood, ranker
from musix_trainer.part import Part

PARTS: tuple[Part[Any], ...] = (
    genre.PART,
    mood.PART,
    artists.PART,
    collab.PART,
    content.PART,
    item_stats.PART,
    ranker.PART,
)


def floors() -> dict[str, str]:
    """Return the metrics that must not be below a baseline, with the keys of these baselines, of all parts."""
    return {metric: baseline for part in PARTS for metric, baseline in part.floors.items()}
