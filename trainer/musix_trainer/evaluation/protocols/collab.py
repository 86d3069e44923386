"""Collab: held-out tracks of known listeners, ranked by LightFM and by the baselines. Intervals are over listeners.

All learn from everything but the test part; what was tuned, was tuned on the validation part, with as many trials each.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from musix_runtime.models.arrays import Floats
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

NEGATIVES = 99
K = 10
OURS = "LightFM"
DEFAULTS = "lightfm_default_settings"
LONG_TAIL = 0.8  # share of the tracks, those heard least


def measure(context: EvaluationContext) -> dict[str, Results]:
    """collab/sampled_99: one held-out track of each listener among 99 others never heard, drawn evenly;
    collab/sampled_99_popular: drawn by plays to the power of 0.75; collab/full: all held-out tracks among all others;
    collab/cold_listeners: as full, each listener met with 1, 3 or 10 tracks, by fold-in, beside popularity."""
    settings = context.run.recipe_file.recipe
    if settings.tuned.trials:
        leakage.check_trials(settings.tuned.trials, "collab", [name for name in BASELINES if name != "popularity"])
    figures = {name: MetricCollector() for name in ("sampled_99", "sampled_99_popular", "full", "cold_listeners")}
    for number in range(context.seeds):
        _evaluate_seed(context, context.seed(number), figures)
    return {f"collab/{name}": each.results() for name, each in figures.items()}


def interaction_matrices(
    learned: Interactions, held_out: Interactions
) -> tuple[csr_matrix, csr_matrix, NDArray[np.int64]]:
    """Listeners by tracks that anybody has heard in `learned`: what was learned, what is wanted, and the tracks' rows.

    Wanted tracks that nobody else has heard cannot be found by anyone, and are left out.
    """
    columns = np.unique(learned.row)

    def matrix(data: Interactions) -> csr_matrix:
        places = np.minimum(np.searchsorted(columns, data.row), len(columns) - 1)
        there = columns[places] == data.row
        shape = (len(learned.names), len(columns))
        ones = np.ones(int(there.sum()), np.float32)
        return csr_matrix((ones, (data.listener[there], places[there])), shape=shape)

    return matrix(learned), matrix(held_out), columns


def lightfm_scorer(model: CollabModel, learned: Interactions, columns: NDArray[np.int64]) -> Scorer:
    """Our model's scores of the columns, which are the rows that it has factors for."""
    numbers = np.full(len(learned.names), -1)
    numbers[np.unique(learned.listener)] = np.arange(len(model.listeners))

    def scores(listeners: NDArray[np.int64]) -> Floats:
        users = model.listener_factors[numbers[listeners]]
        items = model.track_factors
        return np.asarray(users[:, :-1] @ items[:, :-1].T + items[:, -1], np.float32)

    return scores


def _evaluate_seed(context: EvaluationContext, seed: int, figures: dict[str, MetricCollector]) -> None:
    settings = context.run.recipe_file.recipe
    heard = context.run.interactions
    artists = context.run.catalogue.primary_artists() if isinstance(context.run, Run) else []
    parts = split.split_interactions(heard, artists, settings.split, seed)
    learned, test = heard.select(parts != split.TEST), heard.select(parts == split.TEST)
    leakage.check_held_out(learned, test)
    plays, wanted, columns = interaction_matrices(learned, test)
    listeners = np.flatnonzero(np.diff(wanted.indptr))
    scorers: dict[str, Scorer] = {}
    model = collab.train(learned, settings.collab, seed)
    scorers[OURS] = lightfm_scorer(model, learned, columns)
    for name, fit in BASELINES.items():
        progress.say(f"collab: {name}")
        scorers[name] = fit(plays, seed, **_values(settings, name))
    if settings.collab != recipe.Collab():
        scorers[DEFAULTS] = lightfm_scorer(collab.train(learned, recipe.Collab(), seed), learned, columns)
    drawn = _sample_negatives(plays, wanted, listeners, seed)
    tail = _long_tail(plays)
    answers: dict[str, dict[str, list[Any]]] = {}
    for _, start in zip(
        progress.steps("collab: ranking", -(-len(listeners) // metrics.USER_BATCH)),
        range(0, len(listeners), metrics.USER_BATCH),
        strict=True,
    ):
        few = listeners[start : start + metrics.USER_BATCH]
        for name, scorer in scorers.items():
            scores = scorer(few)
            of = answers.setdefault(name, {"full": [], "tail": [], "sampled_99": [], "sampled_99_popular": []})
            of["full"] += metrics.full_ranks(scores, plays[few], wanted[few])
            of["tail"] += [
                places[tail[own.indices]] for places, own in zip(of["full"][start:], wanted[few], strict=True)
            ]
            every = np.arange(len(few))[:, None]
            for way in ("sampled_99", "sampled_99_popular"):
                positive, negatives = drawn["positive"][start : start + len(few)], drawn[way][start : start + len(few)]
                places = metrics.sampled_ranks(scores[every[:, 0], positive], scores[every, negatives])
                of[way] += [np.array([place]) for place in places]
    for way in ("sampled_99", "sampled_99_popular", "full"):
        _add(figures[way], {name: of[way] for name, of in answers.items()}, listeners, "")
    some = np.array([len(each) > 0 for each in answers[OURS]["tail"]])
    if some.any():
        few_places = {name: [each for each in of["tail"] if len(each)] for name, of in answers.items()}
        _add(figures["full"], few_places, listeners[some], "_long_tail")
    _evaluate_cold_start(model, learned, plays, wanted, listeners, scorers["popularity"], figures["cold_listeners"])


def _values(settings: recipe.Recipe, name: str) -> dict[str, Any]:
    values = settings.tuned.baselines.get(name, {})
    return {key: int(value) if float(value).is_integer() and value >= 1 else value for key, value in values.items()}


def _add(figures: MetricCollector, places: dict[str, list[Any]], listeners: NDArray[np.int64], suffix: str) -> None:
    for metric, of in (("hr", metrics.hit_rate), ("ndcg", metrics.ndcg), ("recall", metrics.recall)):
        figures.add(
            f"{metric}_at_{K}{suffix}",
            {name: ClusteredMetric.mean(of(each, K), listeners) for name, each in places.items()},
        )


def _sample_negatives(plays: csr_matrix, wanted: csr_matrix, listeners: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """For each listener one wanted track, and negatives that were neither heard nor wanted, without repetition."""
    rng = np.random.default_rng(seed)
    popular = np.asarray(plays.sum(axis=0)).ravel() ** 0.75
    found: dict[str, list[Any]] = {"positive": [], "sampled_99": [], "sampled_99_popular": []}
    for listener in listeners:
        free = np.ones(plays.shape[1], bool)
        free[plays[listener].indices] = False
        free[wanted[listener].indices] = False
        rows = np.flatnonzero(free)
        size = min(NEGATIVES, len(rows))
        found["positive"].append(rng.choice(wanted[listener].indices))
        found["sampled_99"].append(rng.choice(rows, size, replace=False))
        found["sampled_99_popular"].append(rng.choice(rows, size, replace=False, p=popular[rows] / popular[rows].sum()))
    return {name: np.array(each) for name, each in found.items()}


def _long_tail(plays: csr_matrix) -> NDArray[np.bool_]:
    heard = np.asarray(plays.sum(axis=0)).ravel()
    order = np.argsort(-heard, kind="stable")
    tail = np.ones(len(heard), bool)
    tail[order[: round(len(heard) * (1 - LONG_TAIL))]] = False
    return tail


def _evaluate_cold_start(
    model: CollabModel,
    learned: Interactions,
    plays: csr_matrix,
    wanted: csr_matrix,
    listeners: NDArray[np.int64],
    popularity: Scorer,
    figures: MetricCollector,
) -> None:
    part, items = model.runtime(), model.track_factors
    numbers = {listener: number for number, listener in enumerate(np.unique(learned.listener).tolist())}
    common = popularity(listeners[:1])
    for size in SHORT_HISTORIES:
        folded, popular = [], []
        for listener in listeners.tolist():
            factors = part.fold_in(part.history(numbers[listener])[:size])
            scores = items[:, :-1] @ factors[:-1] + items[:, -1] if factors is not None else common[0]
            folded += metrics.full_ranks(scores[None], plays[listener], wanted[listener])
            popular += metrics.full_ranks(common, plays[listener], wanted[listener])
        _add(figures, {"fold_in": folded, "popularity": popular}, listeners, f"_history_{size}")
