import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from musix_runtime.errors import EvaluationError
from musix_trainer.evaluation import metrics
from musix_trainer.evaluation.bootstrap import ClusteredMetric, estimate


def test_interval_of_a_mean_matches_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(5, 2, 4000)
    found = estimate(ClusteredMetric.mean(values, np.arange(4000)), {})
    half = 1.96 * 2 / np.sqrt(4000)
    assert found["value"] == pytest.approx(values.mean())
    assert found["high"] - found["value"] == pytest.approx(half, rel=0.1)
    assert found["value"] - found["low"] == pytest.approx(half, rel=0.1)


def test_interval_widens_when_rows_share_clusters() -> None:
    values = np.repeat(np.random.default_rng(0).normal(0, 1, 100), 50)
    independent = estimate(ClusteredMetric.mean(values, np.arange(5000)), {})
    clustered = estimate(ClusteredMetric.mean(values, np.repeat(np.arange(100), 50)), {})
    assert clustered["high"] - clustered["low"] > 5 * (independent["high"] - independent["low"])


def test_differences_use_the_same_resamples() -> None:
    rng, clusters = np.random.default_rng(0), np.arange(500)
    hard = rng.normal(0, 10, 500)  # difficulty of each listener, common to both models
    found = estimate(
        ClusteredMetric.mean(hard + 1, clusters),
        {"worse": ClusteredMetric.mean(hard + rng.normal(0, 0.1, 500), clusters)},
    )
    assert found["low"] < 0 < found["high"]
    assert 0.9 < found["better_by"]["worse"]["low"] < 1 < found["better_by"]["worse"]["high"] < 1.1


@given(st.integers(2, 6), st.integers(5, 80), st.integers(0, 10**6))
def test_macro_f1_and_calibration_equal_their_unclustered_values(labels: int, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    chosen, right, clusters = rng.integers(0, labels, rows), rng.integers(0, labels, rows), rng.integers(0, 9, rows)
    expected = f1_score(right, chosen, average="macro", labels=np.unique(right), zero_division=0)
    assert estimate(ClusteredMetric.macro_f1(chosen, right, clusters), {})["value"] == pytest.approx(expected)
    confidence, truth = rng.random((rows, labels)), rng.random((rows, labels)) < 0.4
    top, was = confidence.max(axis=1), truth[np.arange(rows), confidence.argmax(axis=1)]
    expected = metrics.calibration_error(confidence, truth)
    assert estimate(ClusteredMetric.calibration(top, was, clusters), {})["value"] == pytest.approx(expected)


def test_merge_adds_the_sums_of_each_cluster() -> None:
    merged = ClusteredMetric.merge(
        [
            ClusteredMetric.mean(np.array([1.0, 2]), np.array([0, 3])),
            ClusteredMetric.mean(np.array([6.0]), np.array([1])),
        ]
    )
    assert merged.sums.tolist() == [[1, 1], [6, 1], [0, 0], [2, 1]]
    assert estimate(merged, {})["value"] == 3


def test_metric_of_no_rows_is_refused() -> None:
    empty = np.empty(0, np.int64)
    for metric in (
        lambda: ClusteredMetric.mean(empty, empty),
        lambda: ClusteredMetric.macro_f1(empty, empty, empty),
        lambda: ClusteredMetric.calibration(empty, empty.astype(bool), empty),
    ):
        with pytest.raises(EvaluationError, match="expected rows to measure, found none"):
            metric()
