"""Explanation: the exact share of each component in a score, in numbers and in words."""

from collections.abc import Sequence
from math import factorial

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import Floats, Scores

N_COMPONENTS = 5
N_COALITIONS = 2**N_COMPONENTS
NO_REASON = "no component speaks for this track"
_MEMBERS = (np.arange(N_COALITIONS)[:, None] >> np.arange(N_COMPONENTS)) & 1
# (32, 5): component i is in the coalition where bit i of its number is set.
COALITIONS: Floats = _MEMBERS.astype(np.float32)


def _shapley_weights() -> Scores:
    """What the score of each coalition counts in the value of each component, in 120ths: s! (4 - s)! for one that has
    joined `s` others, and as much less for the coalition without it. Shape (32, 5)."""
    others = _MEMBERS.sum(axis=1)[:, None] - _MEMBERS
    weights = np.array([factorial(s) * factorial(N_COMPONENTS - 1 - s) for s in range(N_COMPONENTS)])
    return np.asarray(np.where(_MEMBERS, 1, -1) * weights[np.minimum(others, N_COMPONENTS - 1)], np.float64)


_WEIGHTS = _shapley_weights()
_NUMBERS = np.arange(N_COMPONENTS)


def shapley_values(scores: Scores) -> Scores:
    """Shapley values (Shapley 1953) from whole scores (..., 32) of all coalitions, as whole numbers that sum up to the
    difference of the last and the first: what rounding leaves over goes to the largest. Shape (..., 5)."""
    values = np.rint(scores @ _WEIGHTS / factorial(N_COMPONENTS)) + 0.0  # no negative zeros
    rest = scores[..., -1] - scores[..., 0] - values.sum(axis=-1)
    largest = np.abs(values).argmax(axis=-1)
    values += np.where(largest[..., None] == _NUMBERS, rest[..., None], 0)
    return values


def percentages(values: Scores) -> NDArray[np.int64]:
    """The share of each positive value (n, 5) in their sum, in whole percents that add up to 100: the largest
    remainders are rounded up. Zeros where no value is positive."""
    positive = np.maximum(values, 0)
    total = positive.sum(axis=1, keepdims=True)
    exact = 100 * positive / np.where(total > 0, total, 1)
    found = np.floor(exact)
    lacking = np.where(total > 0, 100, 0) - found.sum(axis=1, keepdims=True)
    ranks = (found - exact).argsort(axis=1, kind="stable").argsort(axis=1)
    return (found + (ranks < lacking)).astype(np.int64)


class ReasonWriter:
    """Writes what speaks for a track in words, by five labels: "70% collaborative + 30% freshness"."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._texts = [[f"{percent}% {label}" for percent in range(101)] for label in labels]

    def reason(self, percents: list[int], order: list[int]) -> str:
        """The components of these percentages (5,), in this order."""
        return " + ".join([self._texts[i][percents[i]] for i in order if percents[i]]) or NO_REASON

    def reasons(self, values: Scores) -> list[str]:
        """The reason of each track, by its Shapley values (n, 5), the largest first."""
        percents = percentages(values)
        order = (-percents).argsort(axis=1, kind="stable").tolist()
        return list(map(self.reason, percents.tolist(), order))
