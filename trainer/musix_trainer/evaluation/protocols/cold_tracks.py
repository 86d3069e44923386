"""Protocol `cold_tracks`: propose tracks that nobody in training heard to the listeners who heard them.

A twentieth of the tracks with interactions loses these, and the popularity in its table. All that depends on listeners
is trained without them. Then the tracks are ranked for each of their listeners among all tracks that nobody in training
heard, by the ranker's scores beside an empty list, as no index would retrieve many of them. Intervals are over
listeners.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import Rows, Scores
from musix_runtime.models.features import INPUT_NAMES
from musix_runtime.models.ranker import COMPONENTS, Ranker
from musix_runtime.models.retrieval import Retriever
from musix_trainer import progress
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation import leakage, metrics
from musix_trainer.evaluation.bootstrap import ClusteredMetric
from musix_trainer.evaluation.protocols import EvaluationContext, MetricCollector, Results, sample
from musix_trainer.evaluation.protocols.playlists.engine import train_engine
from musix_trainer.evaluation.protocols.playlists.ranks import METRICS
from musix_trainer.models.ranker.candidates import compute_features, new_user, serving_context
from musix_trainer.run import Run

COLD = 0.05  # share of the tracks with interactions
N_LISTENERS = 500  # who heard a cold track; more are sampled
POPULARITY, CONTENT = INPUT_NAMES.index("popularity"), COMPONENTS.index("content")


def measure(context: EvaluationContext) -> dict[str, Results]:
    """Measure cold_tracks/full; the baselines are the content vectors alone, the artists alone, and a random order."""
    run, collector = context.full_run, MetricCollector()
    for number in range(context.seeds):
        seed = context.seed(number)
        heard = np.unique(run.interactions.row)
        cold = heard[sample(len(heard), max(round(COLD * len(heard)), 1), seed)]
        held_out = np.isin(run.interactions.row, cold)
        train, test = run.interactions.select(~held_out), run.interactions.select(held_out)
        leakage.check_held_out(train, test)
        leakage.check_unheard(train, cold)
        retriever, ranker = train_engine(_without_popularity(run, cold), train)
        _measure_seed(retriever, ranker, train, test, seed, collector)
    return {"cold_tracks/full": collector.results()}


def _without_popularity(run: Run, rows: Rows) -> Run:
    """Return the run with a catalogue in which these tracks have no popularity, as new ones."""
    inputs = run.catalogue.inputs.copy()
    inputs[rows, POPULARITY] = 0
    return replace(run, catalogue=replace(run.catalogue, inputs=inputs))


def _measure_seed(
    retriever: Retriever,
    ranker: Ranker,
    train: Interactions,
    test: Interactions,
    seed: int,
    collector: MetricCollector,
) -> None:
    """Add the metrics of the listeners with a history and a cold track."""
    unheard = np.setdiff1d(np.arange(len(retriever.popularity)), train.row)
    listeners = np.intersect1d(train.listener, test.listener)
    listeners = listeners[sample(len(listeners), N_LISTENERS, seed)]
    rng = np.random.default_rng(seed)
    ranks: dict[str, list[Scores]] = {}
    for _, listener in zip(progress.steps("cold_tracks: listeners", len(listeners)), listeners.tolist(), strict=True):
        relevant = np.searchsorted(unheard, test.row[test.listener == listener])
        scores = _scores(retriever, ranker, train.row[train.listener == listener], unheard)
        scores["random"] = rng.random(len(unheard))
        for name, values in scores.items():
            ranks.setdefault(name, []).append(metrics.rank_positions(values[relevant], values))
    for metric, function in METRICS.items():
        collector.add(metric, {name: ClusteredMetric.mean(function(each), listeners) for name, each in ranks.items()})


def _scores(retriever: Retriever, ranker: Ranker, history: Rows, rows: Rows) -> dict[str, NDArray[Any]]:
    """Return the scores of the rows for a listener by model, ours first. Shape (rows,) each."""
    user, query = new_user(retriever, history)
    features = compute_features(retriever, user, query, rows)
    affinities = retriever.query(user, query, rows[:0], 1).artists
    return {
        "hybrid": ranker.scores(features.components, serving_context(user)[None])[0],
        "content_alone": features.components[0, :, CONTENT],
        "artist_alone": retriever.artists.preferences(affinities, rows[None])[0],
    }
