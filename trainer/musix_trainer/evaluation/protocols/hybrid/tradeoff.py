"""Trade-off curves: what diversity, similarity or coverage costs in accuracy, by their weight in the score."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.ranker import COMPONENTS
from musix_runtime.models.selection import LEVELS, pairwise_diversity
from musix_trainer import progress
from musix_trainer.evaluation.protocols import MetricCollector, Results
from musix_trainer.evaluation.protocols.hybrid.list_metrics import Lists, add_accuracy, add_beyond_accuracy
from musix_trainer.evaluation.protocols.hybrid.rankings import OURS, K
from musix_trainer.models.ranker.candidates import (
    compute_features,
    measured_user,
    retrieve_candidates,
    serving_context,
)
from musix_trainer.run import Run

TRADEOFF_WEIGHTS = {
    "diversity_weight": (0.0, 0.05, 0.1, 0.2, 0.3, 0.5),
    "content_weight": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7),
    "novelty_bonus": (0.0, 0.05, 0.1, 0.15, 0.2, 0.3),
}
N_WIDE = 300  # candidates for lists with a novelty bonus
CONTENT = COMPONENTS.index("content")


def tradeoff_key(setting: str, weight: float) -> str:
    """Return the name of a weight of the trade-off curves, such as `novelty_bonus_5_percent`."""
    return f"{setting}_{round(100 * weight)}_percent"


def measure_tradeoff(run: Run, relevant: dict[int, set[int]]) -> Results:
    """Measure lists by the ranker's score mixed with one of three other goals, for growing weights.

    diversity_weight: diversity to the tracks picked before. content_weight: the content score, which makes lists
    similar. novelty_bonus: added to the score of a track that no earlier list contains.
    """
    retriever, ranker, collector = run.retriever(), run.ranker.runtime(), MetricCollector()
    listeners = sorted(relevant)
    lists: Lists = {tradeoff_key(name, weight): [] for name, weights in TRADEOFF_WEIGHTS.items() for weight in weights}
    recommended = {weight: np.zeros(len(run.catalogue), bool) for weight in TRADEOFF_WEIGHTS["novelty_bonus"]}
    for _, number in zip(progress.steps("hybrid: trade-offs", len(listeners)), listeners, strict=True):
        user, query = measured_user(retriever, run.collab, number, run.recipe.split)
        context = serving_context(user)[None]
        features = compute_features(retriever, user, query, retrieve_candidates(retriever, user, query, K), K)
        rows, components = features.rows[0], features.components[0]
        scores = ranker.scores(components[None], context)[0]
        diversity = pairwise_diversity(features.vectors)[0] / LEVELS
        for weight in TRADEOFF_WEIGHTS["diversity_weight"]:
            lists[tradeoff_key("diversity_weight", weight)].append(rows[_greedy(scores, diversity, weight)])
        for weight in TRADEOFF_WEIGHTS["content_weight"]:
            mixed = (1 - weight) * scores + weight * components[:, CONTENT]
            lists[tradeoff_key("content_weight", weight)].append(rows[np.argsort(-mixed, kind="stable")[:K]])
        wide = retrieve_candidates(retriever, user, query, N_WIDE)
        features = compute_features(retriever, user, query, wide, N_WIDE)
        scores, rows = ranker.scores(features.components, context)[0], features.rows[0]
        for weight, seen in recommended.items():
            picks = rows[np.argsort(-(scores + weight * ~seen[rows]), kind="stable")[:K]]
            seen[picks] = True
            lists[tradeoff_key("novelty_bonus", weight)].append(picks)
    _add_curves(run, collector, lists, relevant)
    return collector.results()


def _add_curves(run: Run, collector: MetricCollector, lists: Lists, relevant: dict[int, set[int]]) -> None:
    """Add the metrics of each setting under its own name, without comparing the settings."""
    listeners, artists = sorted(relevant), run.catalogue.primary_artists()
    clusters = np.array(listeners)
    for name, each in lists.items():
        own = MetricCollector()
        add_accuracy(own, {OURS: each}, [relevant[number] for number in listeners], clusters)
        add_beyond_accuracy(run, own, {OURS: each}, clusters, artists)
        for metric in (f"ndcg_at_{K}", f"coverage_of_heard_at_{K}", "diversity", "artists"):
            collector.copy_from(f"{metric}_{name}", own, metric)


def _greedy(scores: NDArray[Any], diversity: NDArray[Any], weight: float) -> NDArray[np.int64]:
    """Return K positions, each the best by score and least diversity (n, n) to the ones picked before."""
    picks: list[int] = []
    least = np.ones(len(scores))
    free = np.ones(len(scores), bool)
    for _ in range(min(K, len(scores))):
        pick = int(np.where(free, (1 - weight) * scores + weight * least, -np.inf).argmax())
        picks.append(pick)
        free[pick] = False
        least = np.minimum(least, diversity[pick])
    return np.array(picks, np.int64)
