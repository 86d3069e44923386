"""Hybrid protocols: lists as served, over the whole catalogue, against held-out interactions.

Lists are made by the runtime's own retriever and ranker for known listeners, with their whole history as the query. If
the recipe splits by artist, no held-out track is by an artist of the history: lists then have other artists alone.
Intervals are over listeners.
"""

from dataclasses import replace

import numpy as np

from musix_runtime.errors import EvaluationError
from musix_runtime.models.arrays import Floats
from musix_runtime.models.candidate_features import CandidateFeatures
from musix_runtime.models.retrieval import Retriever, User
from musix_trainer import progress
from musix_trainer.data import split
from musix_trainer.evaluation import leakage
from musix_trainer.evaluation.protocols import EvaluationContext, MetricCollector, Results
from musix_trainer.evaluation.protocols.hybrid.list_metrics import Lists, add_accuracy, add_beyond_accuracy
from musix_trainer.evaluation.protocols.hybrid.rankings import OURS, K, Ranking, make_rankings
from musix_trainer.evaluation.protocols.hybrid.tradeoff import measure_tradeoff
from musix_trainer.models.collab import SHORT_HISTORIES, relevant_rows
from musix_trainer.models.ranker.candidates import (
    compute_features,
    known_user,
    measured_user,
    new_user,
    retrieve_candidates,
    serving_context,
    wrong_rows,
)
from musix_trainer.run import Run

N_POSITIVES, N_NEGATIVES = 12, 18  # of the simulated impressions
HEAD_SHARE = 0.2  # most popular share of the tracks with interactions, which is not the long tail
Relevant = dict[int, set[int]]  # held-out catalogue rows by listener number


def measure(context: EvaluationContext) -> dict[str, Results]:
    """Run the four protocols.

    hybrid/full: ten tracks of the whole catalogue against held-out interactions, with coverage and diversity. Its
    baselines are single components, ablations, the fixed blend, and LightGBM's LambdaRank on the same examples.
    hybrid/cold_listeners: listeners with a history of 1, 3 or 10 tracks. hybrid/tradeoff: the cost of more diversity,
    similarity or coverage. hybrid/simulated_30: simulated impressions, 12 positive and 18 negative.
    """
    run = context.full_run
    artists = run.catalogue.primary_artists()
    parts = split.split_interactions(run.interactions, artists, run.recipe.split, run.recipe.seed)
    train, test = run.interactions.select(parts != split.TEST), run.interactions.select(parts == split.TEST)
    leakage.check_held_out(train, test)
    relevant = relevant_rows(run.collab, test)
    numbers = {name: number for number, name in enumerate(test.names)}
    known = [name.decode() for name in run.collab.listeners.tolist()]
    leakage.check_relevance({numbers[known[i]]: rows for i, rows in relevant.items()}, test)
    rankings = make_rankings(run, run.interactions.select(parts == split.VALIDATION), context.seed(0))
    results = {
        "hybrid/full": _full(run, relevant, rankings, artists),
        "hybrid/cold_listeners": _cold_start(run, relevant, rankings[OURS]),
        "hybrid/tradeoff": measure_tradeoff(run, relevant),
    }
    try:
        results["hybrid/simulated_30"] = _simulated(run, relevant, rankings, context.seed(0))
    except EvaluationError as error:
        progress.say(f"hybrid/simulated_30: not measured: {error}")
    return results


def _full(run: Run, relevant: Relevant, rankings: dict[str, Ranking], artists: list[str]) -> Results:
    retriever, collector = run.retriever(), MetricCollector()
    by_popularity = np.argsort(-retriever.popularity, kind="stable")
    lists: Lists = {name: [] for name in (*rankings, "popularity")}
    listeners = sorted(relevant)
    for _, number in zip(progress.steps("hybrid: listeners", len(listeners)), listeners, strict=True):
        user, query = measured_user(retriever, run.collab, number, run.recipe.split)
        features, context = _scored(retriever, user, query), serving_context(user)
        for name, ranking in rankings.items():
            lists[name].append(features.rows[0, ranking(features, context)])
        lists["popularity"].append(by_popularity[~np.isin(by_popularity, user.history)][:K])
    clusters = np.array(listeners)
    add_accuracy(collector, lists, [relevant[number] for number in listeners], clusters)
    _add_long_tail(run, collector, lists, relevant)
    add_beyond_accuracy(run, collector, lists, clusters, artists)
    return collector.results()


def _scored(retriever: Retriever, user: User, query: Floats | None) -> CandidateFeatures:
    """Return the features of the candidates that the ranker scores, as a batch of one."""
    return compute_features(retriever, user, query, retrieve_candidates(retriever, user, query, K), K)


def _add_long_tail(run: Run, collector: MetricCollector, lists: Lists, relevant: Relevant) -> None:
    """Add the accuracy on long-tail tracks, over the listeners who have any among their held-out tracks."""
    listeners, tail = sorted(relevant), _long_tail(run)
    relevant_tail = [relevant[number] & tail for number in listeners]
    some = np.array([len(rows) > 0 for rows in relevant_tail])
    if some.any():
        selected = {
            name: [rows for rows, has_tail in zip(each, some, strict=True) if has_tail] for name, each in lists.items()
        }
        clusters = np.array(listeners)[some]
        add_accuracy(collector, selected, [rows for rows in relevant_tail if rows], clusters, "_long_tail")


def _long_tail(run: Run) -> set[int]:
    """Return the rows of all tracks but the most popular fifth of those with interactions."""
    order = np.argsort(-run.catalog.popularity, kind="stable")
    with_interactions = int((run.catalog.popularity > 0).sum())
    return set(order[round(with_interactions * HEAD_SHARE) :].tolist())


def _cold_start(run: Run, relevant: Relevant, hybrid: Ranking) -> Results:
    """Measure each listener as an unknown one with its newest tracks as history; baseline: popularity.

    No list has any of the listener's training tracks, or, split by artist, any of their artists, as these could only be
    misses.
    """
    retriever, collector = run.retriever(), MetricCollector()
    by_popularity = np.argsort(-retriever.popularity, kind="stable")
    listeners = sorted(relevant)
    for size in SHORT_HISTORIES:
        lists: Lists = {OURS: [], "popularity": []}
        for number in listeners:
            heard = retriever.collab.history(number)
            user, query = new_user(retriever, heard[:size])
            wrong = wrong_rows(retriever, heard, run.recipe.split)
            features = _scored(retriever, replace(user, history=wrong), query)
            lists[OURS].append(features.rows[0, hybrid(features, serving_context(user))])
            lists["popularity"].append(by_popularity[~np.isin(by_popularity, wrong)][:K])
        truth = [relevant[number] for number in listeners]
        add_accuracy(collector, lists, truth, np.array(listeners), f"_history_{size}")
    return collector.results()


def _simulated(run: Run, relevant: Relevant, rankings: dict[str, Ranking], seed: int) -> Results:
    """Re-rank 30 simulated impressions of each listener: 12 of its held-out tracks, positive, and 18 that it has no
    interaction with, sampled by popularity, negative. A random order has a precision at 10 of 0.40."""
    retriever, collector, rng = run.retriever(), MetricCollector(), np.random.default_rng(seed)
    listeners = [number for number in sorted(relevant) if len(relevant[number]) >= N_POSITIVES]
    if not listeners:
        raise EvaluationError(f"expected listeners with {N_POSITIVES} held-out tracks, found none")
    lists: Lists = {name: [] for name in (*rankings, "popularity")}
    truth = []
    for number in listeners:
        user, query = known_user(retriever, run.collab, number)
        positives = rng.choice(sorted(relevant[number]), N_POSITIVES, replace=False)
        chance = retriever.popularity.astype(np.float64).copy()
        chance[user.history] = 0
        chance[list(relevant[number])] = 0
        negatives = rng.choice(len(chance), N_NEGATIVES, replace=False, p=chance / chance.sum())
        rows = np.sort(np.concatenate([positives, negatives]))
        features = compute_features(retriever, user, query, rows)
        for name, ranking in rankings.items():
            lists[name].append(rows[ranking(features, serving_context(user))])
        lists["popularity"].append(rows[np.argsort(-retriever.popularity[rows], kind="stable")][:K])
        truth.append(set(positives.tolist()))
    add_accuracy(collector, lists, truth, np.array(listeners), "_simulated")
    return collector.results()
