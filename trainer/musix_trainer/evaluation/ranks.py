"""Ranks: at which place each held-out track stands among all that could be recommended. Ties take the middle place."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from musix_runtime.models.arrays import Floats, Rows

BATCH = 256  # listeners scored at a time


def among_all(scores: Floats, heard: csr_matrix, wanted: csr_matrix) -> list[NDArray[np.float64]]:
    """Places from 1 of the wanted tracks of each listener, among all that it has not heard.

    `scores` (n, tracks); `heard` and `wanted` the same shape, of ones.
    """
    found = []
    for i in range(len(scores)):
        own, values = wanted[i].indices, scores[i].astype(np.float64)
        free = np.ones(len(values), bool)
        free[heard[i].indices] = False
        found.append(_places(values[own], values[free]))
    return found


def among(positive: Floats, negatives: Floats) -> NDArray[np.float64]:
    """Place of one positive (n,) among its own negatives (n, m)."""
    above = (negatives > positive[:, None]).sum(axis=1)
    equal = (negatives == positive[:, None]).sum(axis=1)
    return np.asarray(1 + above + equal / 2, np.float64)


def _places(own: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    ordered = np.sort(others)
    above = len(ordered) - np.searchsorted(ordered, own, "right")
    equal = len(ordered) - above - np.searchsorted(ordered, own, "left")
    return np.asarray(1 + above + (equal - 1) / 2, np.float64)  # itself is among them


def hit_rate(places: list[NDArray[np.float64]], k: int) -> NDArray[np.float64]:
    """Whether any of each listener's wanted tracks is among the first `k`."""
    return np.array([float((each <= k).any()) for each in places])


def ndcg(places: list[NDArray[np.float64]], k: int) -> NDArray[np.float64]:
    """Normalised discounted cumulative gain at `k` of each listener (Järvelin and Kekäläinen 2002); relevant or not."""
    best = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    return np.array([(1 / np.log2(1 + each[each <= k])).sum() / best[min(len(each), k)] for each in places])


def recall(places: list[NDArray[np.float64]], k: int) -> NDArray[np.float64]:
    """Share of each listener's wanted tracks that are among the first `k`."""
    return np.array([(each <= k).mean() for each in places])


def precision(places: list[NDArray[np.float64]], k: int) -> NDArray[np.float64]:
    """Share of the first `k` that each listener wanted."""
    return np.array([(each <= k).sum() / k for each in places])


def of_lists(lists: list[Rows], wanted: list[set[int]]) -> list[NDArray[np.float64]]:
    """Places of the wanted tracks in lists, infinite for those that are not in it."""
    found = []
    for rows, own in zip(lists, wanted, strict=True):
        at = {row: place for place, row in enumerate(rows.tolist(), 1)}
        found.append(np.array([at.get(row, np.inf) for row in own], np.float64))
    return found
