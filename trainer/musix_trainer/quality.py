"""Quality card: the keys of the figures that a training reports, known before it starts.

A gate of a recipe names one of these keys. Keys of a group that a data set does not have, such as artists that were not
in training, are absent from the card.
"""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from itertools import product

from musix_runtime.models.mood import MOODS
from musix_runtime.models.ranker import COMPONENTS

RANKING = ("hr_at_10", "ndcg_at_10", "recall_at_10")
ARTIST_GROUPS = ("known_artists", "unknown_artists")


def _keys(*levels: Iterable[str]) -> Iterator[str]:
    return (".".join(names) for names in product(*levels))


KEYS = frozenset(
    [
        *_keys(["split"], ("train_pairs", "validation_pairs", "test_pairs")),
        *_keys(["genre"], ("macro_f1", "ece", "hit_at_1", "hit_at_3", "hit_at_5")),
        *_keys(["genre"], ("all_artists", *ARTIST_GROUPS), ("recordings", "macro_f1")),
        *_keys(
            ["genre"],
            ("all_artists", *ARTIST_GROUPS),
            ["baselines"],
            ("artist_lookup", "xgboost_alone", "lightfm_alone"),
        ),
        *_keys(
            ["genre.weights"],
            (*ARTIST_GROUPS, "unknown_artists_with_title"),
            ("lightfm", "xgboost", "artist_prior", "title"),
        ),
        *_keys(["mood"], ("recordings_without_rule_mood", "validation_recordings", "best_epoch")),
        *_keys(["mood"], ("rule_agreement", "rule_macro_f1")),
        *_keys(["mood.rule_agreement_by_mood"], MOODS),
        "collab.users",
        *_keys(["collab"], ("known_users", "popularity"), RANKING),
        *_keys(["collab.new_users"], ("history_1", "history_3", "history_10"), RANKING),
        *_keys(["content"], ("dim", "shared_genre_at_10", "shared_genre_random")),
        *_keys(["ranker"], ("impressions", "positives", "best_epoch")),
        *_keys(["ranker.validation_auc"], ("network", "blend", *COMPONENTS)),
        "hybrid.users",
        *_keys(["hybrid"], ("hybrid", "collab_alone", "content_alone", "popularity_alone"), RANKING),
    ]
)


def nearest(key: str, keys: Iterable[str]) -> str:
    """Return the keys that look most like `key`, best first, as text."""
    names = sorted(keys)
    return ", ".join(get_close_matches(key, names, 3, 0) or names)
