import itertools
from math import factorial

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from musix_runtime.models.explanation import COALITIONS, NO_REASON, ReasonWriter, percentages, shapley_values

LABELS = ("one", "two", "three", "four", "five")
WRITER = ReasonWriter(LABELS)
VALUES = npst.arrays(np.int64, (3, 5), elements=st.integers(-(10**6), 10**6))


@given(npst.arrays(np.int64, (2, 32), elements=st.integers(0, 10**6)))
def test_shapley_values_are_the_mean_over_all_orders(scores: np.ndarray) -> None:
    result = shapley_values(scores.astype(np.float64))
    for row, values in zip(scores.tolist(), result, strict=True):
        expected = np.zeros(5)
        for order in itertools.permutations(range(5)):
            coalition = 0
            for i in order:
                expected[i] += row[coalition | 1 << i] - row[coalition]
                coalition |= 1 << i
        np.testing.assert_allclose(values, expected / factorial(5), atol=3)  # rounded, and what is left over
        assert values.sum() == row[31] - row[0]


def test_coalitions_have_the_components_of_their_bits() -> None:
    assert COALITIONS[0].tolist() == [0] * 5
    assert COALITIONS[0b10110].tolist() == [0, 1, 1, 0, 1]


@given(VALUES)
def test_percentages_sum_to_100_and_are_rounded(values: np.ndarray) -> None:
    result = percentages(values.astype(np.float64))
    positive = np.maximum(values, 0)
    for row, percents in zip(positive, result, strict=True):
        if row.any():
            assert percents.sum() == 100
            assert (np.abs(percents - 100 * row / row.sum()) < 1).all()
        else:
            assert not percents.any()


@given(VALUES)
def test_reason_starts_with_the_largest_share(values: np.ndarray) -> None:
    for row, reason in zip(values, WRITER.reasons(values.astype(np.float64)), strict=True):
        if not (row > 0).any():
            assert reason == NO_REASON
            continue
        percents = [int(item.split("%")[0]) for item in reason.split(" + ")]
        assert sum(percents) == 100
        assert percents == sorted(percents, reverse=True)
        assert reason.split("% ")[1].split(" + ")[0] == LABELS[int(np.argmax(row))] or percents[0] == percents[1]


def test_reason_text() -> None:
    def output(*values: float) -> str:
        return WRITER.reasons(np.array([values], np.float64))[0]

    assert output(0.35, 0.1, 0.0, 0.05, -0.2) == "70% one + 20% two + 10% four"
    assert output(0, 0, 0, 0, 0) == "no component speaks for this track"
    assert output(0.1, 0.1, 0.1, 0, 0) == "34% one + 33% two + 33% three"
    assert output(0, 0, 0.3, 0, -0.1) == "100% three"
