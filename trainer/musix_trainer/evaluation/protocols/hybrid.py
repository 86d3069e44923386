"""Hybrid: whole lists, as served, over the whole catalogue, against held-out listening. Intervals are over listeners.

Lists are made by the runtime's own retriever and ranker, listeners met as known, with their whole history for query.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from musix_runtime.errors import EvaluationError
from musix_runtime.models.arrays import Floats, Rows
from musix_runtime.models.candidate_features import CandidateFeatures
from musix_runtime.models.features import AUDIO
from musix_runtime.models.ranker import COMPONENTS, DIVERSITY, Ranker
from musix_runtime.models.retrieval import Retriever, User
from musix_runtime.models.selection import LEVELS, pairwise_diversity
from musix_trainer import progress
from musix_trainer.data import split
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation import leakage, metrics
from musix_trainer.evaluation.bootstrap import ClusteredMetric
from musix_trainer.evaluation.protocols import EvaluationContext, MetricCollector, Results
from musix_trainer.models import collab, ranker
from musix_trainer.models.collab import SHORT_HISTORIES
from musix_trainer.run import Run

K = 10
OURS = "hybrid"
PLAYED, SKIPPED = 12, 18  # of the simulated pool
MIN_PLAYS = 5  # plays in training, from which a track may count for coverage
TRADEOFF_WEIGHTS = {  # weights, in the curves
    "diversity_weight": (0.0, 0.05, 0.1, 0.2, 0.3, 0.5),
    "content_weight": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7),
    "novelty_bonus": (0.0, 0.05, 0.1, 0.15, 0.2, 0.3),
}
N_WIDE = 300  # candidates, of which some may have their first time
TAIL = 0.8
CONTENT = COMPONENTS.index("content")
Picks = Callable[[Floats, Floats, Floats], NDArray[Any]]  # components, vectors, context -> positions of a list


def measure(context: EvaluationContext) -> dict[str, Results]:
    """hybrid/full: ten tracks of the whole catalogue against held-out listening, beside each component alone, left out,
    the fixed blend, and LightGBM's LambdaRank learned from the same impressions; how much of the catalogue all lists
    hold, and how alike their tracks are. hybrid/cold_listeners: met with 1, 3 or 10 tracks. hybrid/tradeoff: what
    more diversity, likeness or coverage costs. hybrid/simulated_30: simulated impressions, 12 that were heard among 18
    that were not.
    """
    run = context.full_run
    artists = run.catalogue.primary_artists()
    parts = split.split_interactions(run.interactions, artists, run.recipe.split, run.recipe.seed)
    learned, test = run.interactions.select(parts != split.TEST), run.interactions.select(parts == split.TEST)
    leakage.check_held_out(learned, test)
    relevant = collab.relevant_rows(run.collab, test)
    names = {name: number for number, name in enumerate(test.names)}
    known = [name.decode() for name in run.collab.listeners.tolist()]
    leakage.check_relevance({names[known[i]]: rows for i, rows in relevant.items()}, test)
    ways = _ways(run, run.interactions.select(parts == split.VALIDATION), context.seed(0))
    found = {
        "hybrid/full": _full(run, relevant, ways, artists),
        "hybrid/cold_listeners": _evaluate_cold_start(run, relevant, ways[OURS]),
        "hybrid/tradeoff": _tradeoff(run, relevant),
    }
    try:
        found["hybrid/simulated_30"] = _simulated(run, relevant, ways, context.seed(0))
    except EvaluationError as error:
        progress.say(f"hybrid/simulated_30: not measured: {error}")
    return found


def _ways(run: Run, validation: Interactions, seed: int) -> dict[str, Picks]:
    """Every way of ordering the pool: ours first."""
    part = run.ranker.runtime()
    blend = np.array([run.recipe.ranker.blend[name] for name in COMPONENTS])

    def ours(components: Floats, vectors: Floats, context: Floats) -> NDArray[Any]:
        return _select(part, components, vectors, context)

    def by(score: Callable[[Floats, Floats], NDArray[Any]]) -> Picks:
        return lambda components, vectors, context: np.argsort(-score(components, context), kind="stable")[:K]

    def without(column: int) -> Picks:
        def picks(components: Floats, vectors: Floats, context: Floats) -> NDArray[Any]:
            lacking = components.copy()
            lacking[:, column] = 0
            if column == DIVERSITY:
                return np.argsort(-part.scores(lacking[None], context[None])[0], kind="stable")[:K]
            return ours(lacking, vectors, context)

        return picks

    lambda_rank = _lambda_rank(run, validation, seed)
    return {
        OURS: ours,
        **{f"{name}_alone": by(partial(_column, i)) for i, name in enumerate(COMPONENTS) if i != DIVERSITY},
        "fixed_blend": by(lambda c, _: c @ blend),
        "LambdaRank": by(lambda_rank),
        **{f"without_{name}": without(i) for i, name in enumerate(COMPONENTS)},
    }


def _select(part: Ranker, components: Floats, vectors: Floats, context: Floats) -> NDArray[Any]:
    """Positions of the list that the runtime's ranker chooses."""
    rows = np.arange(len(components))[None]
    features = CandidateFeatures(rows, np.ones(rows.shape, bool), vectors[None], components[None])
    return part.select(features, context[None], np.array([K]))[0][0]


def _column(column: int, components: Floats, context: Floats) -> NDArray[Any]:
    return components[:, column]


def _lambda_rank(run: Run, validation: Interactions, seed: int) -> Callable[[Floats, Floats], NDArray[Any]]:
    """LightGBM's LambdaRank (Burges 2010), from the impressions that our network learns from when none are given."""
    shown = ranker.derive_impressions(run.retriever(), run.collab, validation, run.recipe.ranker, seed)
    order = np.argsort(shown.listener, kind="stable")
    sizes = np.unique(shown.listener[order], return_counts=True)[1]
    model = lightgbm.LGBMRanker(n_estimators=100, num_leaves=15, random_state=seed, verbose=-1, n_jobs=1)
    model.fit(shown.inputs[order], shown.taken[order].astype(int), group=sizes)
    booster = model.booster_

    def scores(components: Floats, context: Floats) -> NDArray[Any]:
        return np.asarray(booster.predict(np.column_stack([components, np.tile(context, (len(components), 1))])))

    return scores


def _full(run: Run, relevant: dict[int, set[int]], ways: dict[str, Picks], artists: list[str]) -> Results:
    retriever, figures = run.retriever(), MetricCollector()
    popular = np.argsort(-retriever.popularity, kind="stable")
    lists: dict[str, list[Rows]] = {name: [] for name in (*ways, "popularity")}
    listeners = sorted(relevant)
    for _, number in zip(progress.steps("hybrid: listeners", len(listeners)), listeners, strict=True):
        user, query = ranker.known(retriever, run.collab, number)
        rows, components, vectors, context = _seen(retriever, user, query)
        for name, picks in ways.items():
            lists[name].append(rows[picks(components, vectors, context)])
        lists["popularity"].append(popular[~np.isin(popular, user.history)][:K])
    wanted = [relevant[number] for number in listeners]
    clusters = np.array(listeners)
    _accuracy(figures, lists, wanted, clusters, "")
    tail = _tail(run)
    far = [rows & tail for rows in wanted]
    some = np.array([len(rows) > 0 for rows in far])
    if some.any():
        few = {name: [each for each, kept in zip(of, some, strict=True) if kept] for name, of in lists.items()}
        _accuracy(figures, few, [rows for rows in far if rows], clusters[some], "_long_tail")
    _breadth(run, figures, lists, clusters, artists)
    return figures.results()


def _seen(retriever: Retriever, user: User, query: Floats | None) -> tuple[Rows, Floats, Floats, Floats]:
    """The rows that the ranker sees, their components and vectors, and the context."""
    rows = ranker.candidates(retriever, user, query, K)
    found = ranker.features_of(retriever, user, query, rows, K)
    return found.rows[0], found.components[0], found.vectors[0], np.array([len(user.history), np.nan], np.float32)


def _accuracy(
    figures: MetricCollector, lists: dict[str, list[Rows]], wanted: list[set[int]], clusters: Rows, suffix: str
) -> None:
    places = {name: metrics.list_ranks(of, wanted) for name, of in lists.items()}
    for metric, of in (
        ("ndcg", metrics.ndcg),
        ("hr", metrics.hit_rate),
        ("recall", metrics.recall),
        ("precision", metrics.precision),
    ):
        figures.add(
            f"{metric}_at_{K}{suffix}",
            {name: ClusteredMetric.mean(of(each, K), clusters) for name, each in places.items()},
        )


def _breadth(
    run: Run, figures: MetricCollector, lists: dict[str, list[Rows]], clusters: Rows, artists: list[str]
) -> None:
    """coverage: share of the tracks with at least 5 training plays that any list holds; gini: how unequally these are
    recommended; diversity: mean cosine distance of a list's tracks over the 12 standardised audio features, as a share
    of that of random pairs; artists: different ones in a list."""
    plays = np.bincount(run.collab.history_rows, minlength=len(run.catalogue))
    eligible = np.flatnonzero(plays >= MIN_PLAYS)
    audio = run.catalogue.inputs[:, : len(AUDIO)].astype(np.float64)
    standard = (audio - audio.mean(axis=0)) / np.maximum(audio.std(axis=0), 1e-9)
    unit = standard / np.maximum(np.linalg.norm(standard, axis=1, keepdims=True), 1e-9)
    mean = unit.mean(axis=0)
    random = 1 - mean @ mean
    codes = np.unique(artists, return_inverse=True)[1]
    for name, of in (
        ("diversity", lambda rows: _distance(unit[rows]) / random),
        ("artists", lambda rows: len(set(codes[rows].tolist()))),
    ):
        figures.add(
            name,
            {who: ClusteredMetric.mean(np.array([of(rows) for rows in each]), clusters) for who, each in lists.items()},
        )
    held = {who: _held(each, eligible, len(plays)) for who, each in lists.items()}
    every = np.arange(len(eligible))
    figures.add(f"coverage_at_{K}", {who: ClusteredMetric.mean(each > 0, every) for who, each in held.items()})
    slots = K * len(clusters) / max(len(eligible), 1)
    figures.add("slots_per_track", {OURS: ClusteredMetric.mean(np.full(len(eligible), slots), every)})
    figures.add(
        "gini", {who: ClusteredMetric.mean(np.full(2, _gini(each)), np.arange(2)) for who, each in held.items()}
    )


def _distance(vectors: NDArray[Any]) -> float:
    upper = np.triu_indices(len(vectors), 1)
    return float((1 - vectors @ vectors.T)[upper].mean()) if len(vectors) > 1 else 0.0


def _held(lists: list[Rows], eligible: Rows, size: int) -> NDArray[np.int64]:
    return np.bincount(np.concatenate(lists), minlength=size)[eligible]


def _gini(counts: NDArray[np.int64]) -> float:
    ordered = np.sort(counts)
    total = ordered.sum()
    return float(1 - 2 * (np.cumsum(ordered).sum() / max(total, 1) - 0.5) / len(ordered)) if len(ordered) else 0.0


def _tail(run: Run) -> set[int]:
    """The rows of the tracks that are heard least: all but a fifth of those heard at all."""
    order = np.argsort(-run.catalog.popularity, kind="stable")
    heard = int((run.catalog.popularity > 0).sum())
    return set(order[round(heard * (1 - TAIL)) :].tolist())


def _evaluate_cold_start(run: Run, relevant: dict[int, set[int]], ours: Picks) -> Results:
    """Each listener met as unknown, with its newest tracks for history; beside popularity, the same tracks excluded."""
    retriever, figures = run.retriever(), MetricCollector()
    popular = np.argsort(-retriever.popularity, kind="stable")
    listeners = sorted(relevant)
    wanted, clusters = [relevant[number] for number in listeners], np.array(listeners)
    for size in SHORT_HISTORIES:
        lists: dict[str, list[Rows]] = {OURS: [], "popularity": []}
        for number in listeners:
            few = retriever.collab.history(number)[:size]
            met = User(retriever.collab.fold_in(few), few, few)
            rows, components, vectors, context = _seen(retriever, met, retriever.content.profile(few))
            lists[OURS].append(rows[ours(components, vectors, context)])
            lists["popularity"].append(popular[~np.isin(popular, few)][:K])
        _accuracy(figures, lists, wanted, clusters, f"_history_{size}")
    return figures.results()


def _tradeoff(run: Run, relevant: dict[int, set[int]]) -> Results:
    """What other wishes than accuracy cost, each with growing weight beside the ranker's score: diversity beside the
    tracks picked before; content, which makes lists alike; and a first time, for a track that no list before holds."""
    retriever, part, figures = run.retriever(), run.ranker.runtime(), MetricCollector()
    listeners = sorted(relevant)
    wanted, clusters = [relevant[number] for number in listeners], np.array(listeners)
    artists = run.catalogue.primary_artists()
    lists: dict[str, list[Rows]] = {
        tradeoff_key(wish, weight): [] for wish, of in TRADEOFF_WEIGHTS.items() for weight in of
    }
    held = {weight: np.zeros(len(run.catalogue), bool) for weight in TRADEOFF_WEIGHTS["novelty_bonus"]}
    for _, number in zip(progress.steps("hybrid: wishes", len(listeners)), listeners, strict=True):
        user, query = ranker.known(retriever, run.collab, number)
        rows, components, vectors, context = _seen(retriever, user, query)
        scores = part.scores(components[None], context[None])[0]
        apart = pairwise_diversity(vectors[None])[0] / LEVELS
        for weight in TRADEOFF_WEIGHTS["diversity_weight"]:
            lists[tradeoff_key("diversity_weight", weight)].append(rows[_greedy(scores, apart, weight)])
        for weight in TRADEOFF_WEIGHTS["content_weight"]:
            mixed = (1 - weight) * scores + weight * components[:, CONTENT]
            lists[tradeoff_key("content_weight", weight)].append(rows[np.argsort(-mixed, kind="stable")[:K]])
        rows = ranker.candidates(retriever, user, query, N_WIDE)
        many = ranker.features_of(retriever, user, query, rows, N_WIDE)
        scores = part.scores(many.components, context[None])[0]
        for weight, of in held.items():
            picked = many.rows[0][np.argsort(-(scores + weight * ~of[many.rows[0]]), kind="stable")[:K]]
            of[picked] = True
            lists[tradeoff_key("novelty_bonus", weight)].append(picked)
    for name, each in lists.items():
        found = MetricCollector()
        _accuracy(found, {OURS: each}, wanted, clusters, "")
        _breadth(run, found, {OURS: each}, clusters, artists)
        for metric in (f"ndcg_at_{K}", f"coverage_at_{K}", "diversity", "artists"):
            figures.copy_from(f"{metric}_{name}", found, metric)
    return figures.results()


def tradeoff_key(setting: str, weight: float) -> str:
    """Return the name of a weight of the trade-off curves, such as `novelty_bonus_5_percent`."""
    return f"{setting}_{round(100 * weight)}_percent"


def _greedy(scores: NDArray[Any], apart: NDArray[Any], weight: float) -> NDArray[np.int64]:
    picks: list[int] = []
    least = np.ones(len(scores))
    left = np.ones(len(scores), bool)
    for _ in range(min(K, len(scores))):
        pick = int(np.where(left, (1 - weight) * scores + weight * least, -np.inf).argmax())
        picks.append(pick)
        left[pick] = False
        least = np.minimum(least, apart[pick])
    return np.array(picks, np.int64)


def _simulated(run: Run, relevant: dict[int, set[int]], ways: dict[str, Picks], seed: int) -> Results:
    """30 simulated impressions of each listener: 12 of its held-out tracks, "played", and 18 that it never heard, drawn
    by popularity, "skipped"; re-ranked. In random order precision at 10 is 0.40."""
    retriever, figures, rng = run.retriever(), MetricCollector(), np.random.default_rng(seed)
    listeners = [number for number in sorted(relevant) if len(relevant[number]) >= PLAYED]
    if not listeners:
        raise EvaluationError(f"expected listeners with {PLAYED} held-out tracks, found none")
    lists: dict[str, list[Rows]] = {name: [] for name in (*ways, "popularity")}
    wanted = []
    for number in listeners:
        user, query = ranker.known(retriever, run.collab, number)
        played = rng.choice(sorted(relevant[number]), PLAYED, replace=False)
        chance = retriever.popularity.astype(np.float64).copy()
        chance[user.history] = 0
        chance[list(relevant[number])] = 0
        skipped = rng.choice(len(chance), SKIPPED, replace=False, p=chance / chance.sum())
        rows = np.sort(np.concatenate([played, skipped]))
        features = ranker.features_of(retriever, user, query, rows)
        components, vectors = features.components[0], features.vectors[0]
        context = np.array([len(user.history), np.nan], np.float32)
        for name, picks in ways.items():
            lists[name].append(rows[picks(components, vectors, context)])
        lists["popularity"].append(rows[np.argsort(-retriever.popularity[rows], kind="stable")][:K])
        wanted.append(set(played.tolist()))
    _accuracy(figures, lists, wanted, np.array(listeners), "_simulated")
    return figures.results()
