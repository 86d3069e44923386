"""Protocol `playlists`: continue the playlists of new listeners.

The listeners are cut into five folds. For each fold the recommender and the baselines are trained on the others; then
each listener of the fold is a new one, with a history of 1, 5, 10 or half of its tracks, and all its other tracks are
relevant. The whole catalogue is ranked. Intervals are over listeners, differences are paired.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from musix_runtime.models.arrays import Rows
from musix_runtime.models.ranker import Ranker
from musix_runtime.models.retrieval import Retriever
from musix_trainer import progress
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation import leakage, metrics
from musix_trainer.evaluation.bootstrap import ClusteredMetric
from musix_trainer.evaluation.protocols import EvaluationContext, MetricCollector, Results
from musix_trainer.evaluation.protocols.playlists.baselines import Baselines, Scorer
from musix_trainer.evaluation.protocols.playlists.engine import train_engine
from musix_trainer.models.item_stats import popularity_order
from musix_trainer.models.ranker.candidates import new_user, recommend
from musix_trainer.models.ranker.out_of_fold import assign_folds
from musix_trainer.run import Run

FOLDS = 5
OURS = "hybrid"
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

    def add(self, model: str, ranks: dict[str, list[Any]]) -> None:
        """Add one fold's ranks of a model, by metric."""
        for metric, each in ranks.items():
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
    """Listeners (n,) of one fold, by number, each with its history and its relevant other tracks."""

    listeners: list[int]
    histories: list[Rows]
    relevant: list[Rows]


def measure(context: EvaluationContext) -> dict[str, Results]:
    """Measure the four lengths of the history, playlists/history_1, _5, _10 and _half."""
    run = context.full_run
    collectors = {name: MetricCollector() for name in LENGTHS}
    for number in range(context.seeds):
        seed = context.seed(number)
        collected = {name: Collected() for name in LENGTHS}
        folds = assign_folds(len(run.interactions.names), FOLDS, seed)[run.interactions.listener]
        for fold in range(FOLDS):
            progress.say(f"playlists: fold {fold + 1} of {FOLDS}")
            train, test = run.interactions.select(folds != fold), run.interactions.select(folds == fold)
            leakage.check_held_out(train, test)
            _measure_fold(run, train, test, seed, collected)
        for name, each in collected.items():
            clusters = np.array(each.listeners)
            for metric, by_model in each.ranks.items():
                values = {
                    model: ClusteredMetric.mean(METRICS[metric](ranks), clusters) for model, ranks in by_model.items()
                }
                collectors[name].add(metric, values)
    return {f"playlists/{name}": each.results() for name, each in collectors.items()}


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


def _measure_fold(
    run: Run, train: Interactions, test: Interactions, seed: int, collected: dict[str, Collected]
) -> None:
    """Add the ranks of one fold, of the recommender and all baselines."""
    size = len(run.catalogue)
    plays = csr_matrix((np.ones(len(train), np.float32), (train.listener, train.row)), (len(train.names), size))
    order = popularity_order(run.catalogue, np.bincount(train.row, minlength=size))
    values, artists = run.recipe.tuned.baselines, run.catalogue.artist_numbers
    scorers = Baselines(plays[np.unique(train.listener)], order, artists, values).scorers(seed)
    retriever, ranker = train_engine(run, train)
    for name, length in LENGTHS.items():
        queries = make_queries(test, length, seed)
        collected[name].listeners += queries.listeners
        collected[name].add(OURS, served_ranks(retriever, ranker, queries))
        for model, scorer in scorers.items():
            collected[name].add(model, dict.fromkeys(METRICS, rank_all(scorer, queries, size)))


def served_ranks(retriever: Retriever, ranker: Ranker, queries: Queries) -> dict[str, list[Any]]:
    """Return the ranks by metric: in the list of ten, as it is served, or in the list of a hundred."""
    truth = [set(rows.tolist()) for rows in queries.relevant]
    ranks = {}
    for limit in (K, WIDE):
        lists = [recommend(retriever, ranker, *new_user(retriever, each), limit) for each in queries.histories]
        ranks[limit] = metrics.list_ranks(lists, truth)
    return {metric: ranks[K if metric.endswith(f"_{K}") else WIDE] for metric in METRICS}


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
