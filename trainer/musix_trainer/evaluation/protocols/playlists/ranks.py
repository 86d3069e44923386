"""Histories of new listeners to continue, and the ranks of the tracks that continue them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from musix_runtime.models.arrays import Rows
from musix_runtime.models.ranker import COMPONENTS, BlendSession, Ranker
from musix_runtime.models.retrieval import Retriever
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation import metrics
from musix_trainer.evaluation.bootstrap import ClusteredMetric
from musix_trainer.evaluation.protocols import MetricCollector
from musix_trainer.evaluation.protocols.playlists.baselines import Scorer
from musix_trainer.models.ranker.candidates import new_user, recommend

OURS = "hybrid"
BLEND = "fixed_blend"
LENGTHS: dict[str, Callable[[int], int]] = {  # of the history, by the number of the listener's tracks
    "history_1": lambda size: 1,
    "history_5": lambda size: 5,
    "history_10": lambda size: 10,
    "history_half": lambda size: size // 2,
}
K, WIDE = 10, 100
BATCH = 64  # listeners whose scores of the whole catalogue are in memory
METRICS: dict[str, Callable[[list[Any]], NDArray[np.float64]]] = {  # of the ranks of the relevant tracks
    f"ndcg_at_{K}": lambda ranks: metrics.ndcg(ranks, K),
    "r_precision": metrics.r_precision,
    f"hr_at_{K}": lambda ranks: metrics.hit_rate(ranks, K),
    f"recall_at_{WIDE}": lambda ranks: metrics.recall(ranks, WIDE),
}


@dataclass
class Collected:
    """Ranks of the relevant tracks of each listener, by model and listener, and the metrics that they are for."""

    listeners: list[int] = field(default_factory=list)
    ranks: dict[str, dict[str, list[Any]]] = field(default_factory=lambda: {name: {} for name in METRICS})

    def add(self, listeners: list[int], ranks: dict[str, dict[str, list[Any]]]) -> None:
        """Add the ranks of some more listeners, by model and metric."""
        self.listeners += listeners
        for model, by_metric in ranks.items():
            for metric, each in by_metric.items():
                self.ranks[metric].setdefault(model, []).extend(each)

    def add_to(self, collector: MetricCollector) -> None:
        """Add the metrics of all models."""
        clusters = np.array(self.listeners)
        for metric, by_model in self.ranks.items():
            value = METRICS[metric]
            collector.add(
                metric, {name: ClusteredMetric.mean(value(each), clusters) for name, each in by_model.items()}
            )


@dataclass(frozen=True)
class Queries:
    """Listeners (n,), by number, each with its history and its relevant other tracks."""

    listeners: list[int]
    histories: list[Rows]
    relevant: list[Rows]


def make_queries(test: Interactions, length: Callable[[int], int], seed: int) -> Queries:
    """Return the listeners of `test` that have a track beyond a history of this length; the history is random."""
    listeners, histories, relevant = [], [], []
    for listener in np.unique(test.listener).tolist():
        rows = np.random.default_rng([seed, listener]).permutation(test.row[test.listener == listener])
        size = length(len(rows))
        if 0 < size < len(rows):
            listeners.append(listener)
            histories.append(rows[:size])
            relevant.append(np.sort(rows[size:]))
    return Queries(listeners, histories, relevant)


def model_ranks(
    retriever: Retriever, ranker: Ranker, scorers: Mapping[str, Scorer], queries: Queries, size: int
) -> dict[str, dict[str, list[Any]]]:
    """Return the ranks by model and metric: of the recommender's lists, which come first, of lists by the blend of the
    components in place of the network, and of all baselines."""
    users = [new_user(retriever, history) for history in queries.histories]
    weights = np.array([retriever.serving.blend[name] for name in COMPONENTS], np.float32)
    rankers = {OURS: ranker, BLEND: Ranker(BlendSession(weights))}

    def lists(name: str, limit: int) -> list[Rows]:
        return [recommend(retriever, rankers[name], *each, limit) for each in users]

    own = {name: served_ranks(partial(lists, name), queries) for name in rankers}
    return own | {name: baseline_ranks(scorer, queries, size) for name, scorer in scorers.items()}


def served_ranks(lists: Callable[[int], list[Rows]], queries: Queries) -> dict[str, list[Any]]:
    """Return the ranks by metric: in the list of ten, as it is served, or in the list of a hundred.

    `lists` returns the list of each listener, by the number of tracks.
    """
    truth = [set(rows.tolist()) for rows in queries.relevant]
    ranks = {limit: metrics.list_ranks(lists(limit), truth) for limit in (K, WIDE)}
    return {metric: ranks[K if metric.endswith(f"_{K}") else WIDE] for metric in METRICS}


def baseline_ranks(scorer: Scorer, queries: Queries, size: int) -> dict[str, list[Any]]:
    """Return the ranks by metric, which are the same for all metrics."""
    return dict.fromkeys(METRICS, rank_all(scorer, queries, size))


def rank_all(scorer: Scorer, queries: Queries, size: int) -> list[Any]:
    """Return the ranks of each listener's relevant tracks among all tracks outside of its history."""
    ranks = []
    for start in range(0, len(queries.listeners), BATCH):
        histories, relevant = (each[start : start + BATCH] for each in (queries.histories, queries.relevant))
        ranks += metrics.full_ranks(scorer(histories), _ones(histories, size), _ones(relevant, size))
    return ranks


def _ones(rows: list[Rows], size: int) -> csr_matrix:
    """Return a matrix (n, size) with ones in these rows of each listener."""
    owner = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    return csr_matrix((np.ones(len(owner), np.float32), (owner, np.concatenate(rows))), (len(rows), size))
