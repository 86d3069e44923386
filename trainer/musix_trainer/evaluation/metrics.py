"""Classification and ranking metrics that no library has in this form.

Ranks start at 1; tied items have the mean of their ranks.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.metrics import f1_score

from musix_runtime.models.arrays import Floats, Rows

Truth = NDArray[np.bool_]
USER_BATCH = 256  # users scored at a time
FEW_RANKS = 32  # items whose ranks are found faster by counting than by sorting


def macro_f1(confidence: Floats, truth: Truth) -> float:
    """Return the macro-F1 of the top choice, which is right if it is among the labels. Both arguments (n, labels)."""
    chosen = confidence.argmax(axis=1)
    right = truth[np.arange(len(truth)), chosen]
    labels = np.where(right, chosen, truth.argmax(axis=1))
    return float(f1_score(labels, chosen, average="macro", labels=np.unique(labels), zero_division=0))


def hit_at(confidence: Floats, truth: Truth, k: int) -> float:
    """Return the share of rows with a label among the top `k`."""
    best = np.argsort(-confidence, axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(truth, best, axis=1).any(axis=1).mean())


def calibration_error(confidence: Floats, truth: Truth, bins: int = 15) -> float:
    """Return the expected calibration error of the top choice over bins of equal width (Guo et al. 2017)."""
    top = confidence.max(axis=1)
    right = truth[np.arange(len(truth)), confidence.argmax(axis=1)]
    bin_of = np.minimum((top * bins).astype(int), bins - 1)
    gaps = [abs(top[bin_of == b].mean() - right[bin_of == b].mean()) * (bin_of == b).sum() for b in np.unique(bin_of)]
    return float(sum(gaps) / len(top))


def ranking(lists: list[NDArray[np.int64]], relevant: list[set[int]], k: int) -> dict[str, float]:
    """Return mean hit rate, NDCG and recall at `k` over listeners. `lists`: rows, best first; no `relevant` set is
    empty."""
    hits, gains, recalls = [], [], []
    discounts = 1 / np.log2(np.arange(2, k + 2))
    for rows, own in zip(lists, relevant, strict=True):
        hit = np.array([row in own for row in rows[:k].tolist()], bool)
        hits.append(hit.any())
        gains.append((hit * discounts[: len(hit)]).sum() / discounts[: len(own)].sum())
        recalls.append(hit.sum() / len(own))
    return {
        f"hr_at_{k}": float(np.mean(hits)),
        f"ndcg_at_{k}": float(np.mean(gains)),
        f"recall_at_{k}": float(np.mean(recalls)),
    }


def full_ranks(scores: Floats, history: csr_matrix, relevant: csr_matrix) -> list[NDArray[np.float64]]:
    """Return the ranks of each listener's relevant tracks among all tracks outside of its history.

    `scores` (n, tracks); `history` and `relevant` of the same shape, with ones.
    """
    ranks = []
    for i in range(len(scores)):
        own, values = relevant[i].indices, scores[i]
        unseen = np.ones(len(values), bool)
        unseen[history[i].indices] = False
        ranks.append(rank_positions(values[own], values[unseen]))
    return ranks


def sampled_ranks(positive: Floats, negatives: Floats) -> NDArray[np.float64]:
    """Return the rank of one positive (n,) among its own negatives (n, m)."""
    above = (negatives > positive[:, None]).sum(axis=1)
    equal = (negatives == positive[:, None]).sum(axis=1)
    return np.asarray(1 + above + equal / 2, np.float64)


def rank_positions(own: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Return the ranks of some scores (n,) among those of all candidates (m,), which include them. Shape (n,)."""
    if len(own) < FEW_RANKS:
        above = np.array([np.count_nonzero(others > value) for value in own])
        equal = np.array([np.count_nonzero(others == value) for value in own])
    else:
        ordered = np.sort(others)
        above = len(ordered) - np.searchsorted(ordered, own, "right")
        equal = len(ordered) - above - np.searchsorted(ordered, own, "left")
    return np.asarray(1 + above + (equal - 1) / 2, np.float64)  # the item itself is one of the equal ones


def hit_rate(ranks: list[NDArray[np.float64]], k: int) -> NDArray[np.float64]:
    """Return 1 for each listener with a relevant track among the first `k`, else 0."""
    return np.array([float((each <= k).any()) for each in ranks])


def ndcg(ranks: list[NDArray[np.float64]], k: int) -> NDArray[np.float64]:
    """Return the NDCG at `k` of each listener, for binary relevance (Järvelin and Kekäläinen 2002)."""
    best = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    return np.array([(1 / np.log2(1 + each[each <= k])).sum() / best[min(len(each), k)] for each in ranks])


def recall(ranks: list[NDArray[np.float64]], k: int) -> NDArray[np.float64]:
    """Return the share of each listener's relevant tracks that are among the first `k`."""
    return np.array([(each <= k).mean() for each in ranks])


def r_precision(ranks: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the share of each listener's n relevant tracks that are among the first n."""
    return np.array([(each <= len(each)).mean() for each in ranks])


def precision(ranks: list[NDArray[np.float64]], k: int) -> NDArray[np.float64]:
    """Return the share of the first `k` tracks that are relevant to each listener."""
    return np.array([(each <= k).sum() / k for each in ranks])


def list_ranks(lists: list[Rows], relevant: list[set[int]]) -> list[NDArray[np.float64]]:
    """Return the ranks of the relevant tracks in each list, infinite for those that are not in it."""
    ranks = []
    for rows, own in zip(lists, relevant, strict=True):
        rank_of = {row: rank for rank, row in enumerate(rows.tolist(), 1)}
        ranks.append(np.array([rank_of.get(row, np.inf) for row in own], np.float64))
    return ranks
