"""Intervals: a metric as sums over clusters, and the bootstrap that draws whole clusters again (Efron 1979; Field and
Welsh 2007). A cluster is a listener or an artist: rows of one are no independent evidence."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.errors import EvaluationError

DRAWS = 1000
SEED = 20_110
Sums = NDArray[np.float64]


@dataclass(frozen=True)
class ClusteredMetric:
    """What a metric is made of: sums for each cluster (clusters, k), and the value of such sums added up."""

    sums: Sums
    value: Callable[[Sums], Sums]  # (..., k) -> (...)

    @classmethod
    def mean(cls, values: NDArray[Any], clusters: NDArray[np.int64]) -> "ClusteredMetric":
        """The mean of values (n,), each of a cluster. Raises EvaluationError when there are none."""
        _expect_some(len(values))
        size = int(clusters.max()) + 1
        sums = np.column_stack([np.bincount(clusters, values, size), np.bincount(clusters, minlength=size)])
        return cls(sums.astype(np.float64), _share)

    @classmethod
    def macro_f1(
        cls, chosen: NDArray[np.int64], labels: NDArray[np.int64], clusters: NDArray[np.int64]
    ) -> "ClusteredMetric":
        """Macro-F1 of chosen labels (n,) against the right ones, over the labels that occur among these."""
        _expect_some(len(labels))
        width, size = int(max(chosen.max(), labels.max())) + 1, int(clusters.max()) + 1

        def counts(where: NDArray[np.bool_], label: NDArray[np.int64]) -> Sums:
            table = np.bincount(clusters[where] * width + label[where], minlength=size * width)
            return table.reshape(size, width).astype(np.float64)

        right = chosen == labels
        return cls(np.hstack([counts(right, labels), counts(~right, chosen), counts(~right, labels)]), _macro_f1)

    @classmethod
    def calibration(
        cls, top: NDArray[Any], right: NDArray[np.bool_], clusters: NDArray[np.int64], bins: int = 15
    ) -> "ClusteredMetric":
        """Expected calibration error of the top choice over bins of equal width (Guo et al. 2017)."""
        _expect_some(len(top))
        size = int(clusters.max()) + 1
        cells = clusters * bins + np.minimum((top * bins).astype(np.int64), bins - 1)
        gap = np.bincount(cells, top - right, size * bins).reshape(size, bins)
        count = np.bincount(clusters, minlength=size)[:, None]
        return cls(np.hstack([gap, count]).astype(np.float64), _calibration)

    @classmethod
    def merge(cls, metrics: list["ClusteredMetric"]) -> "ClusteredMetric":
        """One metric over several seeds: the sums of each cluster together."""
        size = max(len(each.sums) for each in metrics)
        padded = [np.pad(each.sums, ((0, size - len(each.sums)), (0, 0))) for each in metrics]
        return cls(np.sum(padded, axis=0), metrics[0].value)


def estimate(tally: ClusteredMetric, baselines: Mapping[str, ClusteredMetric]) -> dict[str, Any]:
    """The metric with its 95 % interval, those of the baselines, and by how much it is better than each, on the same
    draws."""
    weights = _weights(len(tally.sums))
    drawn = tally.value(weights @ tally.sums)
    found: dict[str, Any] = {**_interval(_total(tally), drawn), "baselines": {}, "better_by": {}}
    for name, each in baselines.items():
        found["baselines"][name] = _total(each)
        if len(each.sums) == len(tally.sums):
            gap = drawn - each.value(weights @ each.sums)
            found["better_by"][name] = _interval(_total(tally) - _total(each), gap)
    return found


def _total(tally: ClusteredMetric) -> float:
    return float(tally.value(tally.sums.sum(axis=0)))


def _interval(value: float, drawn: Sums) -> dict[str, float]:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high)}


def _weights(clusters: int) -> Sums:
    """How often each cluster is in each of the draws. The same for all metrics over as many clusters."""
    rng = np.random.default_rng(SEED)
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), DRAWS).astype(np.float64)


def _share(sums: Sums) -> Sums:
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1e-12))


def _macro_f1(sums: Sums) -> Sums:
    right, said, missed = np.split(sums, 3, axis=-1)
    f1 = 2 * right / np.maximum(2 * right + said + missed, 1e-12)
    occurs = right + missed > 0
    return np.asarray((f1 * occurs).sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1))


def _calibration(sums: Sums) -> Sums:
    return np.asarray(np.abs(sums[..., :-1]).sum(axis=-1) / np.maximum(sums[..., -1], 1e-12))


def _expect_some(count: int) -> None:
    if not count:
        raise EvaluationError("expected rows to measure, found none: a metric over nothing is no metric")
