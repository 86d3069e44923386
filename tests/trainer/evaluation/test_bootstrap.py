import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from musix_runtime.errors import EvaluationError
from musix_trainer.evaluation import metrics
from musix_trainer.evaluation.bootstrap import ClusteredMetric, estimate


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(5, 2, 4000)
    found = estimate(ClusteredMetric.mean(values, np.arange(4000)), {})
    half = 1.96 * 2 / np.sqrt(4000)
    assert found["value"] == pytest.approx(values.mean())
    assert found["high"] - found["value"] == pytest.approx(half, rel=0.1)
    assert found["value"] - found["low"] == pytest.approx(half, rel=0.1)


def test_rows_of_one_cluster_are_no_independent_evidence() -> None:
    values = np.repeat(np.random.default_rng(0).normal(0, 1, 100), 50)
    apart = estimate(ClusteredMetric.mean(values, np.arange(5000)), {})
    together = estimate(ClusteredMetric.mean(values, np.repeat(np.arange(100), 50)), {})
    assert together["high"] - together["low"] > 5 * (apart["high"] - apart["low"])


def test_a_difference_is_drawn_on_the_same_clusters() -> None:
    rng, clusters = np.random.default_rng(0), np.arange(500)
    hard = rng.normal(0, 10, 500)  # the same for both: how hard a listener is
    found = estimate(
        ClusteredMetric.mean(hard + 1, clusters),
        {"worse": ClusteredMetric.mean(hard + rng.normal(0, 0.1, 500), clusters)},
    )
    assert found["low"] < 0 < found["high"]
    assert 0.9 < found["better_by"]["worse"]["low"] < 1 < found["better_by"]["worse"]["high"] < 1.1


@given(st.integers(2, 6), st.integers(5, 80), st.integers(0, 10**6))
def test_macro_f1_and_calibration_are_those_of_the_whole(labels: int, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    chosen, right, clusters = rng.integers(0, labels, rows), rng.integers(0, labels, rows), rng.integers(0, 9, rows)
    expected = f1_score(right, chosen, average="macro", labels=np.unique(right), zero_division=0)
    assert estimate(ClusteredMetric.macro_f1(chosen, right, clusters), {})["value"] == pytest.approx(expected)
    confidence, truth = rng.random((rows, labels)), rng.random((rows, labels)) < 0.4
    top, was = confidence.max(axis=1), truth[np.arange(rows), confidence.argmax(axis=1)]
    expected = metrics.calibration_error(confidence, truth)
    assert estimate(ClusteredMetric.calibration(top, was, clusters), {})["value"] == pytest.approx(expected)


def test_seeds_are_joined_by_cluster() -> None:
    both = ClusteredMetric.merge(
        [
            ClusteredMetric.mean(np.array([1.0, 2]), np.array([0, 3])),
            ClusteredMetric.mean(np.array([6.0]), np.array([1])),
        ]
    )
    assert both.sums.tolist() == [[1, 1], [6, 1], [0, 0], [2, 1]]
    assert estimate(both, {})["value"] == 3


def test_a_metric_over_nothing_is_refused() -> None:
    nothing = np.empty(0, np.int64)
    for tally in (
        lambda: ClusteredMetric.mean(nothing, nothing),
        lambda: ClusteredMetric.macro_f1(nothing, nothing, nothing),
        lambda: ClusteredMetric.calibration(nothing, nothing.astype(bool), nothing),
    ):
        with pytest.raises(EvaluationError, match="expected rows to measure, found none"):
            tally()
