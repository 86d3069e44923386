"""Quality card: the keys of the metrics that a training reports, which are known before it starts.

Each part declares its keys with `keys`; the gates of a recipe refer to them. The card lacks the keys of groups that a
data set does not have, such as unknown artists.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import product

RANKING = ("hr_at_10", "ndcg_at_10", "recall_at_10")  # of `metrics.ranking`


def keys(*levels: str | Iterable[str]) -> frozenset[str]:
    """Return every key with one name of each level, from the outermost. A string is a level with one name."""
    names = [(level,) if isinstance(level, str) else level for level in levels]
    return frozenset(".".join(path) for path in product(*names))


def nearest(key: str, known: Iterable[str]) -> str:
    """Return the keys that are most similar to `key`, best first, as text."""
    names = sorted(known)
    return ", ".join(get_close_matches(key, names, 3, 0) or names)
