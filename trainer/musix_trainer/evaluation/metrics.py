"""Classification and ranking metrics, where no library has them in the form needed here.

A rank counts from 1; tied items get the mean of the ranks that they share.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.metrics import f1_score

from musix_runtime.models.arrays import Floats, Rows

Truth = NDArray[np.bool_]
USER_BATCH = 256  # users scored at a time


def macro_f1(confidence: Floats, truth: Truth) -> float:
    """Macro-F1 of the top choice, which is right when it is among the labels. Both (n, labels)."""
    chosen = confidence.argmax(axis=1)
    right = truth[np.arange(len(truth)), chosen]
    labels = np.where(right, chosen, truth.argmax(axis=1))
    return float(f1_score(labels, chosen, average="macro", labels=np.unique(labels), zero_division=0))


def hit_at(confidence: Floats, truth: Truth, k: int) -> float:
    """Share of rows of which a label is among the top `k`."""
    best = np.argsort(-confidence, axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(truth, best, axis=1).any(axis=1).mean())


def calibration_error(confidence: Floats, truth: Truth, bins: int = 15) -> float:
    """Expected calibration error of the top choice over bins of equal width (Guo et al. 2017)."""
    top = confidence.max(axis=1)
    right = truth[np.arange(len(truth)), confidence.argmax(axis=1)]
    bin_of = np.minimum((top * bins).astype(int), bins - 1)
    gaps = [abs(top[bin_of == b].mean() - right[bin_of == b].mean()) * (bin_of == b).sum() for b in np.unique(bin_of)]
    return float(sum(gaps) / len(top))


def ranking(found: list[NDArray[np.int64]], relevant: list[set[int]], k: int) -> dict[str, float]:
    """Hit rate, NDCG and recall at `k`, means over listeners. `found`: rows, best first; no `relevant` is empty."""
    hits, gains, recalls = [], [], []
    discounts = 1 / np.log2(np.arange(2, k + 2))
    for rows, wanted in zip(found, relevant, strict=True):
        hit = np.array([row in wanted for row in rows[:k].tolist()], bool)
        hits.append(hit.any())
        gains.append((hit * discounts[: len(hit)]).sum() / discounts[: len(wanted)].sum())
        recalls.append(hit.sum() / len(wanted))
    return {
        f"hr_at_{k}": float(np.mean(hits)),
        f"ndcg_at_{k}": float(np.mean(gains)),
        f"recall_at_{k}": float(np.mean(recalls)),
    }


def full_ranks(scores: Floats, heard: csr_matrix, wanted: csr_matrix) -> list[NDArray[np.float64]]:
    """Places from 1 of the wanted tracks of each listener, among all that it has not heard.

    `scores` (n, tracks); `heard` and `wanted` the same shape, of ones.
    """
    found = []
    for i in range(len(scores)):
        own, values = wanted[i].indices, scores[i].astype(np.float64)
        free = np.ones(len(values), bool)
        free[heard[i].indices] = False
        found.append(_rank_positions(values[own], values[free]))
    return found


def sampled_ranks(positive: Floats, negatives: Floats) -> NDArray[np.float64]:
    """Place of one positive (n,) among its own negatives (n, m)."""
    above = (negatives > positive[:, None]).sum(axis=1)
    equal = (negatives == positive[:, None]).sum(axis=1)
    return np.asarray(1 + above + equal / 2, np.float64)


def _rank_positions(own: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
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


def list_ranks(lists: list[Rows], wanted: list[set[int]]) -> list[NDArray[np.float64]]:
    """Places of the wanted tracks in lists, infinite for those that are not in it."""
    found = []
    for rows, own in zip(lists, wanted, strict=True):
        at = {row: place for place, row in enumerate(rows.tolist(), 1)}
        found.append(np.array([at.get(row, np.inf) for row in own], np.float64))
    return found
