"""Cluster bootstrap: confidence intervals by resampling whole clusters (Efron 1979; Field and Welsh 2007).

A cluster is a listener or an artist, whose rows are not independent of each other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.errors import EvaluationError

RESAMPLES = 1000
SEED = 20_110
Sums = NDArray[np.float64]


@dataclass(frozen=True)
class ClusteredMetric:
    """A metric as a function of sums: those of each cluster (clusters, k), and the metric of added sums."""

    sums: Sums
    value: Callable[[Sums], Sums]  # (..., k) -> (...)

    @classmethod
    def mean(cls, values: NDArray[Any], clusters: NDArray[np.int64]) -> "ClusteredMetric":
        """Return the mean of values (n,), whose clusters are (n,). Raises EvaluationError for no values."""
        _check_nonempty(len(values))
        size = int(clusters.max()) + 1
        sums = np.column_stack([np.bincount(clusters, values, size), np.bincount(clusters, minlength=size)])
        return cls(sums.astype(np.float64), _share)

    @classmethod
    def macro_f1(
        cls, chosen: NDArray[np.int64], labels: NDArray[np.int64], clusters: NDArray[np.int64]
    ) -> "ClusteredMetric":
        """Return the macro-F1 of chosen labels (n,) against the true ones (n,), over the labels that occur in these."""
        _check_nonempty(len(labels))
        width, size = int(max(chosen.max(), labels.max())) + 1, int(clusters.max()) + 1

        def counts(mask: NDArray[np.bool_], label: NDArray[np.int64]) -> Sums:
            table = np.bincount(clusters[mask] * width + label[mask], minlength=size * width)
            return table.reshape(size, width).astype(np.float64)

        right = chosen == labels
        return cls(np.hstack([counts(right, labels), counts(~right, chosen), counts(~right, labels)]), _macro_f1)

    @classmethod
    def calibration(
        cls,
        top: NDArray[Any],
        right: NDArray[np.bool_],
        clusters: NDArray[np.int64],
        bins: int = 15,
        weights: NDArray[np.float64] | None = None,
    ) -> "ClusteredMetric":
        """Return the expected calibration error of the top choice over bins of equal width (Guo et al. 2017).

        The rows have `weights` (n,), by default 1.
        """
        _check_nonempty(len(top))
        size = int(clusters.max()) + 1
        cells = clusters * bins + np.minimum((top * bins).astype(np.int64), bins - 1)
        weights = np.ones(len(top)) if weights is None else weights
        gap = np.bincount(cells, weights * (top - right), size * bins).reshape(size, bins)
        count = np.bincount(clusters, weights, size)[:, None]
        return cls(np.hstack([gap, count]).astype(np.float64), _calibration)

    @classmethod
    def merge(cls, metrics: list["ClusteredMetric"]) -> "ClusteredMetric":
        """Return one metric over several seeds, with the sums of each cluster added."""
        size = max(len(each.sums) for each in metrics)
        padded = [np.pad(each.sums, ((0, size - len(each.sums)), (0, 0))) for each in metrics]
        return cls(np.sum(padded, axis=0), metrics[0].value)


def estimate(metric: ClusteredMetric, baselines: Mapping[str, ClusteredMetric]) -> dict[str, Any]:
    """Return the metric with its 95 % interval, the baselines, and the differences to them with theirs.

    All use the same resamples, of the clusters that have rows.
    """
    present = metric.sums.any(axis=1)
    weights = _weights(int(present.sum()))
    resampled = metric.value(weights @ metric.sums[present])
    result: dict[str, Any] = {**_interval(_total(metric), resampled), "baselines": {}, "better_by": {}}
    for name, each in baselines.items():
        result["baselines"][name] = _total(each)
        if len(each.sums) == len(metric.sums):
            difference = resampled - each.value(weights @ each.sums[present])
            result["better_by"][name] = _interval(_total(metric) - _total(each), difference)
    return result


def lower_bound(metric: ClusteredMetric, resamples: int, level: float) -> tuple[Sums, Sums]:
    """Return the metric without its bias, and the bound above which the truth is with a probability of `level`.

    A divergence is never negative, so chance alone makes it larger, and makes its resamples larger by about as much
    again: that is the bias. The bound is by the standard error of the resamples, as their quantiles are too near where
    there are few rows (Efron and Tibshirani, An introduction to the bootstrap, 1993, chapters 6 and 10). All clusters
    must have rows. Both have the shape of the metric.
    """
    value = metric.value(metric.sums.sum(axis=0))
    resampled = metric.value(_weights(len(metric.sums), resamples) @ metric.sums)
    unbiased = 2 * value - resampled.mean(axis=0)
    return unbiased, unbiased - NormalDist().inv_cdf(level) * resampled.std(axis=0, ddof=1)


def _total(metric: ClusteredMetric) -> float:
    return float(metric.value(metric.sums.sum(axis=0)))


def _interval(value: float, resampled: Sums) -> dict[str, float]:
    """Return the percentile interval, widened to the value: resamples of a calibration error lie above it."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {"value": value, "low": min(value, float(low)), "high": max(value, float(high))}


@lru_cache(maxsize=1)
def _weights(clusters: int, resamples: int = RESAMPLES) -> Sums:
    """Return how often each cluster is in each resample; depends on the two numbers only."""
    rng = np.random.default_rng(SEED)
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), resamples).astype(np.float64)


def _share(sums: Sums) -> Sums:
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1e-12))


def _macro_f1(sums: Sums) -> Sums:
    right, wrong, missed = np.split(sums, 3, axis=-1)
    f1 = 2 * right / np.maximum(2 * right + wrong + missed, 1e-12)
    occurs = right + missed > 0
    return np.asarray((f1 * occurs).sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1))


def _calibration(sums: Sums) -> Sums:
    return np.asarray(np.abs(sums[..., :-1]).sum(axis=-1) / np.maximum(sums[..., -1], 1e-12))


def _check_nonempty(count: int) -> None:
    if not count:
        raise EvaluationError("expected rows to measure, found none")
