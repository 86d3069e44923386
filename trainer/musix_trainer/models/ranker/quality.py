"""Quality card of the whole recommender: served lists against held-out interactions."""

from typing import Any

import numpy as np

from musix_runtime.models.arrays import Rows, Scores
from musix_runtime.models.ranker import COMPONENTS
from musix_runtime.models.retrieval import Retriever
from musix_trainer import progress
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation import metrics
from musix_trainer.models.collab import CollabModel, relevant_rows
from musix_trainer.models.ranker.candidates import (
    compute_features,
    known_user,
    measured_user,
    retrieve_candidates,
    select,
    serving_context,
)
from musix_trainer.models.ranker.network import RankerModel
from musix_trainer.quality import RANKING, keys
from musix_trainer.recipe import Split

RECOMMENDERS = ("hybrid", "collab_alone", "content_alone", "popularity_alone")
QUALITY_KEYS = (
    keys("ranker", ("impressions", "positives", "best_epoch"))
    | keys("ranker.validation_auc", ("network", "linear", "blend", *COMPONENTS))
    | keys("hybrid", "users")
    | keys("hybrid", RECOMMENDERS, RANKING)
)
FLOORS = {"hybrid.hybrid.ndcg_at_10": "hybrid.popularity_alone.ndcg_at_10"}


def recommend(
    retriever: Retriever, collab: CollabModel, model: RankerModel, number: int, limit: int = 10
) -> tuple[Rows, dict[str, Scores]]:
    """Return a known listener's list, best first: rows, and the contribution of each component to each score."""
    user, query = known_user(retriever, collab, number)
    ranker = model.runtime()
    rows, components = select(retriever, ranker, user, query, limit)
    _, contributions = ranker.explain(components[None], serving_context(user)[None])
    return rows, dict(zip(COMPONENTS, contributions[0].T, strict=True))


def measure(
    retriever: Retriever, collab: CollabModel, model: RankerModel, test: Interactions, split: Split, limit: int = 10
) -> dict[str, Any]:
    """Return the ranking metrics of lists as `recommend` makes them, and of lists by single components.

    If `test` was split by artist, lists have only artists that the listener has not heard.
    """
    relevant = relevant_rows(collab, test)
    ranker = model.runtime()
    by_popularity = np.argsort(-retriever.popularity, kind="stable")
    lists: dict[str, list[Rows]] = {name: [] for name in RECOMMENDERS}
    for _, number in zip(progress.steps("hybrid: listeners", len(relevant)), sorted(relevant), strict=True):
        user, query = measured_user(retriever, collab, number, split)
        rows = retrieve_candidates(retriever, user, query, limit)
        (components,) = compute_features(retriever, user, query, rows).components
        scored = compute_features(retriever, user, query, rows, limit)
        picks, _, lengths = ranker.select(scored, serving_context(user)[None], np.array([limit]))
        lists["hybrid"].append(scored.rows[0, picks[0, : lengths[0]]])
        for name, component in (("collab_alone", "collab"), ("content_alone", "content")):
            order = np.argsort(-components[:, COMPONENTS.index(component)], kind="stable")
            lists[name].append(rows[order[:limit]])
        lists["popularity_alone"].append(by_popularity[~np.isin(by_popularity, user.history)][:limit])
    truth = [relevant[number] for number in sorted(relevant)]
    return {"users": len(truth)} | {name: metrics.ranking(rows, truth, limit) for name, rows in lists.items()}
