"""Collab protocols: held-out tracks, ranked by LightFM and the baselines. Intervals are over listeners.

All models are trained on everything but the test part, and were tuned on validation, with as many trials each.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from musix_runtime.models.arrays import Floats, RaggedRows
from musix_trainer import progress, recipe
from musix_trainer.data import split
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation import leakage, metrics
from musix_trainer.evaluation.baselines import BASELINES, Scorer
from musix_trainer.evaluation.bootstrap import ClusteredMetric
from musix_trainer.evaluation.protocols import EvaluationContext, MetricCollector, Results
from musix_trainer.models import collab
from musix_trainer.models.collab import SHORT_HISTORIES, CollabModel
from musix_trainer.run import Run

N_NEGATIVES = 99
SAMPLED = ("sampled_99", "sampled_99_popular")
K = 10
OURS = "LightFM"
COMPONENT = "collab"
DEFAULTS = "lightfm_default_settings"
LONG_TAIL = 0.8  # least popular share of the tracks


def measure(context: EvaluationContext) -> dict[str, Results]:
    """Run the four protocols.

    collab/sampled_99: one held-out track of each listener among 99 others outside of its history, sampled uniformly.
    collab/sampled_99_popular: sampled in proportion to popularity to the power of 0.75. collab/full: all held-out
    tracks among all tracks outside of the history. collab/cold_listeners: as full, with each listener folded in from 1,
    3 or 10 tracks; baseline: popularity.
    """
    collectors = {name: MetricCollector() for name in (*SAMPLED, "full", "cold_listeners")}
    for number in range(context.seeds):
        _evaluate_seed(context, context.seed(number), collectors)
    return {f"collab/{name}": each.results() for name, each in collectors.items()}


def interaction_matrices(train: Interactions, test: Interactions) -> tuple[csr_matrix, csr_matrix, NDArray[np.int64]]:
    """Return the training and the test matrix (listeners, tracks), and the rows of the tracks (tracks,).

    The tracks are those with training interactions: no collaborative model can rank the others.
    """
    columns = np.unique(train.row)

    def matrix(data: Interactions) -> csr_matrix:
        positions = np.minimum(np.searchsorted(columns, data.row), len(columns) - 1)
        present = columns[positions] == data.row
        shape = (len(train.names), len(columns))
        ones = np.ones(int(present.sum()), np.float32)
        return csr_matrix((ones, (data.listener[present], positions[present])), shape=shape)

    return matrix(train), matrix(test), columns


def lightfm_scorer(model: CollabModel, train: Interactions, columns: NDArray[np.int64]) -> Scorer:
    """Return the scorer of our model for the columns, which are the rows that it has factors for."""
    numbers = np.full(len(train.names), -1)
    numbers[np.unique(train.listener)] = np.arange(len(model.listeners))

    def scores(listeners: NDArray[np.int64]) -> Floats:
        users = model.listener_factors[numbers[listeners]]
        items = model.track_factors
        return np.asarray(users[:, :-1] @ items[:, :-1].T + items[:, -1], np.float32)

    return scores


def component_scorer(model: CollabModel, train: Interactions, share: float) -> Scorer:
    """Return the scorer of the ranker's component collab, by the runtime's code: affinities by factors, which have the
    `share`, and by co-listening. It scores the rows that the model has factors for."""
    part, positions = model.runtime(), np.arange(len(model.rows))[None]
    numbers = np.full(len(train.names), -1)
    numbers[np.unique(train.listener)] = np.arange(len(model.listeners))

    def score(number: int) -> Floats:
        queries = part.queries(model.listener_factors[number : number + 1])
        best = (queries @ model.track_factors.T).max(axis=1)
        taste = part.taste(RaggedRows.of([part.history(number)]))
        by_factors, by_taste = part.affinities(positions, queries, best), part.item_affinities(positions, taste)
        return np.asarray(share * by_factors[0] + (1 - share) * by_taste[0], np.float32)

    return lambda listeners: np.stack([score(number) for number in numbers[listeners].tolist()])


def make_scorers(
    settings: recipe.Recipe,
    model: CollabModel,
    train: Interactions,
    history: csr_matrix,
    columns: NDArray[np.int64],
    seed: int,
) -> dict[str, Scorer]:
    """Return the scorers of our model, which comes first, and of all baselines, by name; see `interaction_matrices`.

    Raises EvaluationError if a baseline was tuned with fewer trials than the model.
    """
    if settings.tuned.trials:
        leakage.check_trials(settings.tuned.trials, "collab", [name for name in BASELINES if name != "popularity"])
    scorers: dict[str, Scorer] = {OURS: lightfm_scorer(model, train, columns)}
    for name, fit in BASELINES.items():
        progress.say(f"collab: {name}")
        scorers[name] = fit(history, seed, **_tuned_values(settings, name))
    return scorers


def rank_fully(
    scorers: dict[str, Scorer], history: csr_matrix, relevant: csr_matrix, listeners: NDArray[np.int64]
) -> dict[str, list[Any]]:
    """Return the ranks of each listener's relevant tracks among all tracks outside of the history, by model."""
    ranks: dict[str, list[Any]] = {name: [] for name in scorers}
    for start in range(0, len(listeners), metrics.USER_BATCH):
        numbers = listeners[start : start + metrics.USER_BATCH]
        for name, scorer in scorers.items():
            ranks[name] += metrics.full_ranks(scorer(numbers), history[numbers], relevant[numbers])
    return ranks


def _evaluate_seed(context: EvaluationContext, seed: int, collectors: dict[str, MetricCollector]) -> None:
    """Add the metrics of one split."""
    settings, interactions = context.run.recipe_file.recipe, context.run.interactions
    catalogue = context.run.catalogue if isinstance(context.run, Run) else None
    artists, numbers = (catalogue.primary_artists(), catalogue.artist_numbers) if catalogue else ([], None)
    parts = split.split_interactions(interactions, artists, settings.split, seed)
    train, test = interactions.select(parts != split.TEST), interactions.select(parts == split.TEST)
    leakage.check_held_out(train, test)
    history, relevant, columns = interaction_matrices(train, test)
    listeners = np.flatnonzero(np.diff(relevant.indptr))
    model = collab.train(train, settings.collab, seed, numbers)
    scorers = make_scorers(settings, model, train, history, columns, seed)
    if settings.collab != recipe.Collab():
        scorers[DEFAULTS] = lightfm_scorer(collab.train(train, recipe.Collab(), seed), train, columns)
    samples = _sample_negatives(history, relevant, listeners, seed)
    ranks = _rank(scorers, history, relevant, listeners, samples)
    for protocol in (*SAMPLED, "full"):
        record(collectors[protocol], {name: each[protocol] for name, each in ranks.items()}, listeners)
    has_tail = np.array([len(each) > 0 for each in ranks[OURS]["tail"]])
    if has_tail.any():
        tail_ranks = {name: [each for each in of_model["tail"] if len(each)] for name, of_model in ranks.items()}
        record(collectors["full"], tail_ranks, listeners[has_tail], "_long_tail")
    _evaluate_cold_start(
        model, train, history, relevant, listeners, scorers["popularity"], collectors["cold_listeners"]
    )


def _rank(
    scorers: dict[str, Scorer],
    history: csr_matrix,
    relevant: csr_matrix,
    listeners: NDArray[np.int64],
    samples: dict[str, Any],
) -> dict[str, dict[str, list[Any]]]:
    """Return the ranks of each listener's relevant tracks, by model and protocol; `tail`: of the long-tail ones."""
    tail = _long_tail(history)
    ranks: dict[str, dict[str, list[Any]]] = {
        name: {protocol: [] for protocol in ("full", "tail", *SAMPLED)} for name in scorers
    }
    starts = range(0, len(listeners), metrics.USER_BATCH)
    for _, start in zip(progress.steps("collab: ranking", len(starts)), starts, strict=True):
        batch = slice(start, start + metrics.USER_BATCH)
        numbers = listeners[batch]
        users = np.arange(len(numbers))
        for name, scorer in scorers.items():
            scores, own = scorer(numbers), ranks[name]
            full = metrics.full_ranks(scores, history[numbers], relevant[numbers])
            own["full"] += full
            own["tail"] += [each[tail[row.indices]] for each, row in zip(full, relevant[numbers], strict=True)]
            for protocol in SAMPLED:
                positive, negatives = samples["positive"][batch], samples[protocol][batch]
                sampled = metrics.sampled_ranks(scores[users, positive], scores[users[:, None], negatives])
                own[protocol] += [np.array([rank]) for rank in sampled]
    return ranks


def _tuned_values(settings: recipe.Recipe, name: str) -> dict[str, Any]:
    """Return the tuned hyper-parameters of a baseline, whole numbers as integers."""
    values = settings.tuned.baselines.get(name, {})
    return {key: int(value) if float(value).is_integer() and value >= 1 else value for key, value in values.items()}


def record(
    collector: MetricCollector, ranks: dict[str, list[Any]], listeners: NDArray[np.int64], suffix: str = ""
) -> None:
    """Add hit rate, NDCG and recall of each model, by its ranks of each listener's relevant tracks."""
    for metric, function in (("hr", metrics.hit_rate), ("ndcg", metrics.ndcg), ("recall", metrics.recall)):
        by_model = {name: ClusteredMetric.mean(function(each, K), listeners) for name, each in ranks.items()}
        collector.add(f"{metric}_at_{K}{suffix}", by_model)


def _sample_negatives(
    history: csr_matrix, relevant: csr_matrix, listeners: NDArray[np.int64], seed: int
) -> dict[str, Any]:
    """Return a random relevant track of each listener, and negatives that are neither relevant nor in its history.

    `positive` (listeners,); each of `SAMPLED` (listeners, 99), without repetition.
    """
    rng = np.random.default_rng(seed)
    popularity = np.asarray(history.sum(axis=0)).ravel() ** 0.75
    samples: dict[str, list[Any]] = {"positive": [], "sampled_99": [], "sampled_99_popular": []}
    for listener in listeners:
        free = np.ones(history.shape[1], bool)
        free[history[listener].indices] = False
        free[relevant[listener].indices] = False
        rows = np.flatnonzero(free)
        size, weights = min(N_NEGATIVES, len(rows)), popularity[rows] / popularity[rows].sum()
        samples["positive"].append(rng.choice(relevant[listener].indices))
        samples["sampled_99"].append(rng.choice(rows, size, replace=False))
        samples["sampled_99_popular"].append(rng.choice(rows, size, replace=False, p=weights))
    return {name: np.array(each) for name, each in samples.items()}


def _long_tail(history: csr_matrix) -> NDArray[np.bool_]:
    """Return whether each track is in the least popular share `LONG_TAIL`. Shape (tracks,)."""
    counts = np.asarray(history.sum(axis=0)).ravel()
    order = np.argsort(-counts, kind="stable")
    tail = np.ones(len(counts), bool)
    tail[order[: round(len(counts) * (1 - LONG_TAIL))]] = False
    return tail


def _evaluate_cold_start(
    model: CollabModel,
    train: Interactions,
    history: csr_matrix,
    relevant: csr_matrix,
    listeners: NDArray[np.int64],
    popularity: Scorer,
    collector: MetricCollector,
) -> None:
    """Add the metrics of listeners that are folded in from their newest tracks."""
    part, items = model.runtime(), model.track_factors
    numbers = {listener: number for number, listener in enumerate(np.unique(train.listener).tolist())}
    popular_scores = popularity(listeners[:1])
    for size in SHORT_HISTORIES:
        folded, popular = [], []
        for listener in listeners.tolist():
            factors = part.fold_in(part.history(numbers[listener])[:size])
            scores = items[:, :-1] @ factors[:-1] + items[:, -1] if factors is not None else popular_scores[0]
            folded += metrics.full_ranks(scores[None], history[listener], relevant[listener])
            popular += metrics.full_ranks(popular_scores, history[listener], relevant[listener])
        record(collector, {"fold_in": folded, "popularity": popular}, listeners, f"_history_{size}")
