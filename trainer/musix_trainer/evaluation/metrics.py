"""Metrics that no library has in the form needed here, and the few that many parts share."""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from musix_runtime.models.arrays import Floats

Truth = NDArray[np.bool_]


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
