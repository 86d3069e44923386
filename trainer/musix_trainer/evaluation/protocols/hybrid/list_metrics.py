"""Metrics of recommendation lists: accuracy, and coverage, inequality and diversity."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import Rows
from musix_runtime.models.features import AUDIO
from musix_trainer.evaluation import metrics
from musix_trainer.evaluation.bootstrap import ClusteredMetric
from musix_trainer.evaluation.protocols import MetricCollector
from musix_trainer.evaluation.protocols.hybrid.rankings import OURS, K
from musix_trainer.run import Run

MIN_PLAYS = 5  # training plays from which a track counts for coverage
Lists = dict[str, list[Rows]]  # by ranking: the list of each listener, best first


def add_accuracy(
    collector: MetricCollector, lists: Lists, relevant: list[set[int]], clusters: Rows, suffix: str = ""
) -> None:
    """Add NDCG, hit rate, recall and precision at 10 of each ranking. `relevant`: the tracks of each listener."""
    ranks = {name: metrics.list_ranks(of_listeners, relevant) for name, of_listeners in lists.items()}
    for metric, function in (
        ("ndcg", metrics.ndcg),
        ("hr", metrics.hit_rate),
        ("recall", metrics.recall),
        ("precision", metrics.precision),
    ):
        values = {name: ClusteredMetric.mean(function(each, K), clusters) for name, each in ranks.items()}
        collector.add(f"{metric}_at_{K}{suffix}", values)


def add_beyond_accuracy(run: Run, collector: MetricCollector, lists: Lists, clusters: Rows, artists: list[str]) -> None:
    """Add coverage, Gini coefficient, diversity and number of artists of each ranking.

    coverage: share of the catalogue that any list contains; coverage_of_heard: the same of the tracks with at least
    `MIN_PLAYS` training plays; gini: inequality of how often these are recommended; diversity: mean cosine distance of
    a list's tracks over the 12 standardised audio features, relative to that of random pairs; artists: different ones
    in a list.
    """
    plays = np.bincount(run.collab.history_rows, minlength=len(run.catalogue))
    eligible = np.flatnonzero(plays >= MIN_PLAYS)
    unit, random_distance = _audio_directions(run)
    codes = np.unique(artists, return_inverse=True)[1]
    for metric, function in (
        ("diversity", lambda rows: _mean_distance(unit[rows]) / random_distance),
        ("artists", lambda rows: len(set(codes[rows].tolist()))),
    ):
        values = {name: np.array([function(rows) for rows in each]) for name, each in lists.items()}
        collector.add(metric, {name: ClusteredMetric.mean(each, clusters) for name, each in values.items()})
    all_counts = {name: np.bincount(np.concatenate(each), minlength=len(plays)) for name, each in lists.items()}
    shares = {name: float((each > 0).mean()) for name, each in all_counts.items()}
    collector.add(f"coverage_at_{K}", {name: _exact(share) for name, share in shares.items()})
    counts = {name: each[eligible] for name, each in all_counts.items()}
    tracks = np.arange(len(eligible))
    covered = {name: ClusteredMetric.mean(each > 0, tracks) for name, each in counts.items()}
    collector.add(f"coverage_of_heard_at_{K}", covered)
    slots = K * len(clusters) / max(len(eligible), 1)
    collector.add("slots_per_track", {OURS: ClusteredMetric.mean(np.full(len(eligible), slots), tracks)})
    collector.add("gini", {name: _exact(_gini(each)) for name, each in counts.items()})


def _exact(value: float) -> ClusteredMetric:
    """Return a metric of all lists together, which has no interval."""
    return ClusteredMetric.mean(np.full(2, value), np.arange(2))


def _audio_directions(run: Run) -> tuple[NDArray[np.float64], float]:
    """Return the standardised audio features as unit vectors (tracks, 12), and the mean distance of random pairs."""
    audio = run.catalogue.inputs[:, : len(AUDIO)].astype(np.float64)
    standard = (audio - audio.mean(axis=0)) / np.maximum(audio.std(axis=0), 1e-9)
    unit = standard / np.maximum(np.linalg.norm(standard, axis=1, keepdims=True), 1e-9)
    mean = unit.mean(axis=0)
    return unit, float(1 - mean @ mean)


def _mean_distance(vectors: NDArray[Any]) -> float:
    pairs = np.triu_indices(len(vectors), 1)
    return float((1 - vectors @ vectors.T)[pairs].mean()) if len(vectors) > 1 else 0.0


def _gini(counts: NDArray[np.int64]) -> float:
    ordered = np.sort(counts)
    total = int(ordered.sum())
    return float(1 - 2 * (np.cumsum(ordered).sum() / max(total, 1) - 0.5) / len(ordered)) if len(ordered) else 0.0
