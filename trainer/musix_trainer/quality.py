"""Quality card: the keys of the figures that a training reports, known before it starts.

Each part declares its own keys with `keys`. A gate of a recipe names one of them. Keys of a group that a data set does
not have, such as artists that were not in training, are absent from the card.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import product

RANKING = ("hr_at_10", "ndcg_at_10", "recall_at_10")  # of `metrics.ranking`


def keys(*levels: str | Iterable[str]) -> frozenset[str]:
    """Return every key that has a name of each level, from the outermost on. A text is a level of one name."""
    names = [(level,) if isinstance(level, str) else level for level in levels]
    return frozenset(".".join(path) for path in product(*names))


def nearest(key: str, known: Iterable[str]) -> str:
    """Return the keys that look most like `key`, best first, as text."""
    names = sorted(known)
    return ", ".join(get_close_matches(key, names, 3, 0) or names)
