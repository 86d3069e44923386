"""Protocol `lists`: the lists of ten as people see them, without any held-out track. Intervals are over listeners.

Lists are made by the runtime's own retriever and ranker for listeners of the run, as for a request that names only the
listener. The baseline `popularity` is the most popular tracks outside of the listener's history.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from musix_runtime.models import because
from musix_runtime.models.arrays import ABSENT, RaggedRows, Rows
from musix_runtime.models.ranker import Ranker
from musix_runtime.models.retrieval import Retriever, User
from musix_runtime.schemas import RecommendRequest
from musix_trainer import progress
from musix_trainer.evaluation.bootstrap import ClusteredMetric
from musix_trainer.evaluation.protocols import EvaluationContext, MetricCollector, Results, sample
from musix_trainer.models.ranker.candidates import known_user, recommend, select, serving_context
from musix_trainer.run import Run

N_LISTENERS = 1000  # of the run; more are sampled
N_PAIRS = 10  # other listeners that each is compared with
K, LONGER = 10, 50  # tracks in a list, and in the list that must begin with the same ten
TIME_RANGE = RecommendRequest("").time_range


@dataclass(frozen=True)
class Shown:
    """What one listener sees. Lists have the best track first.

    `full` is the list without anything else, `longer` the same with `LONGER` tracks, `playing` the list with a
    `current` track, and `popular` the most popular tracks. `causes` (length, 3) are the heard tracks that speak for
    each track of `full`, ABSENT for none.
    """

    user: User
    current: int
    full: Rows
    longer: Rows
    playing: Rows
    popular: Rows
    causes: Rows


def measure(context: EvaluationContext) -> dict[str, Results]:
    """Measure what the lists look like.

    lists/full: different artists in a list, tracks of the most frequent one, and the share of lists with over three of
    one (which a history of one artist allows); the shares of tracks by artists in the history, and of tracks that no
    listener in training heard; the popularity, which is the percentile of a track by listeners among the tracks that
    have any (0 for the others), beside that of the history; the share of a list that another listener gets too; whether
    a list of 50 begins with the list of ten; the share of tracks with a heard track as a reason (`because`), and the
    share of a list that has the most frequent first reason.

    lists/current_track: the same listeners with a current track, drawn from all tracks that anybody heard: the share of
    the list that stays, and the share of tracks that have a genre of the current track; the baseline is the list
    without it, which agrees by chance.
    """
    run, seed = context.full_run, context.seed(0)
    shown = _make_lists(run, seed)
    full, current = MetricCollector(), MetricCollector()
    lists = {"hybrid": [each.full for each in shown], "popularity": [each.popular for each in shown]}
    _add_contents(full, run, shown, lists)
    _add(full, "shared_with_another", {name: shared_with_others(each, seed) for name, each in lists.items()})
    _add(full, "stable", {"hybrid": [np.array_equal(each.full, each.longer[:K]) for each in shown]})
    _add(full, "heard_reason", {"hybrid": [(each.causes != ABSENT).any(axis=1).mean() for each in shown]})
    _add(full, "same_first_reason", {"hybrid": [most_frequent(each.causes[:, 0]) / K for each in shown]})
    _add(current, "unchanged", {"hybrid": [np.isin(each.full, each.playing).mean() for each in shown]})
    families = run.catalog.families
    agreement = {
        "hybrid": [genre_agreement(families, each.current, each.playing) for each in shown],
        "without_current_track": [genre_agreement(families, each.current, each.full) for each in shown],
    }
    _add(current, "genre_of_current_track", agreement)
    return {"lists/full": full.results(), "lists/current_track": current.results()}


def _make_lists(run: Run, seed: int) -> list[Shown]:
    retriever, ranker = run.retriever(), run.ranker.runtime()
    by_popularity = np.argsort(-retriever.popularity, kind="stable")
    numbers = sample(len(run.collab.listeners), N_LISTENERS, seed)
    shown = []
    for _, number in zip(progress.steps("lists: listeners", len(numbers)), numbers.tolist(), strict=True):
        user = known_user(retriever, run.collab, number)[0]
        user = replace(user, profile_items=user.history[: retriever.collab.count(number, TIME_RANGE)])
        popular = by_popularity[~np.isin(by_popularity, user.history)][:K]
        current = int(np.random.default_rng([seed, number]).choice(retriever.collab.rows))
        shown.append(_show(retriever, ranker, user, current, popular))
    return shown


def _show(retriever: Retriever, ranker: Ranker, user: User, current: int, popular: Rows) -> Shown:
    query, playing = retriever.content_query(user), replace(user, current=current)
    full, components = select(retriever, ranker, user, query, K)
    _, values = ranker.explain(components[None], serving_context(user)[None])
    profile = RaggedRows.of([user.profile_items])
    causes = because.causes(retriever, profile, np.array([user.current]), full[None], values)
    return Shown(
        user,
        current,
        full,
        longer=recommend(retriever, ranker, user, query, LONGER),
        playing=recommend(retriever, ranker, playing, retriever.content_query(playing), K),
        popular=popular,
        causes=causes.rows[0],
    )


def _add(collector: MetricCollector, metric: str, by_model: Mapping[str, Sequence[float]]) -> None:
    """Add the mean of one value of each listener."""
    collector.add(
        metric,
        {name: ClusteredMetric.mean(np.array(each, float), np.arange(len(each))) for name, each in by_model.items()},
    )


def _add_contents(collector: MetricCollector, run: Run, shown: list[Shown], lists: Mapping[str, list[Rows]]) -> None:
    """Add the metrics of artists and popularity, of which only the popularity is known for the histories too."""
    artists, popularity = run.catalogue.artist_numbers, _popularity(run)
    histories = [each.user.history for each in shown]
    values: dict[str, Callable[[Rows, Rows], float]] = {
        "artists": lambda rows, _: len(np.unique(artists[rows])),
        "most_of_one_artist": lambda rows, _: most_frequent(artists[rows]),
        "over_three_of_one_artist": lambda rows, _: float(most_frequent(artists[rows]) > 3),
        "artists_of_history": lambda rows, history: float(np.isin(artists[rows], artists[history]).mean()),
        "never_heard": lambda rows, _: float((popularity[rows] == 0).mean()),
        "popularity": lambda rows, _: float(popularity[rows].mean()),
    }
    for metric, value in values.items():
        compared = {**lists, "history": histories} if metric == "popularity" else lists
        _add(collector, metric, {name: list(map(value, each, histories)) for name, each in compared.items()})


def _popularity(run: Run) -> NDArray[np.float64]:
    """Return the percentile (0..1) of each track by training listeners, among those that have any; else 0."""
    listeners = np.bincount(run.collab.history_rows, minlength=len(run.catalogue))
    heard = np.flatnonzero(listeners)
    popularity = np.zeros(len(listeners))
    popularity[heard] = (rankdata(listeners[heard]) - 0.5) / len(heard)
    return popularity


def shared_with_others(lists: list[Rows], seed: int) -> list[float]:
    """Return the mean share of each list that is in the lists of `N_PAIRS` random other listeners."""
    order = np.random.default_rng(seed).permutation(len(lists))
    shifts = range(1, min(N_PAIRS, len(lists) - 1) + 1)
    shared = np.zeros(len(lists))
    for shift in shifts:
        for own, other in zip(order.tolist(), np.roll(order, shift).tolist(), strict=True):
            shared[own] += np.isin(lists[own], lists[other]).mean()
    return (shared / max(len(shifts), 1)).tolist()


def most_frequent(values: Rows) -> int:
    """Return how often the most frequent of the values occurs; ABSENT does not count."""
    return int(np.unique(values[values != ABSENT], return_counts=True)[1].max(initial=0))


def genre_agreement(families: NDArray[np.uint32], current: int, rows: Rows) -> float:
    """Return the share of the rows that have a genre of the current track."""
    return float((families[rows] & families[current] != 0).mean())
