"""Ranker: from five components of a candidate to a score in 0..1, and each component's exact share in it."""

import math
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from musix_runtime.arrays import Floats, Rows, Scores

COMPONENTS = ("collab", "content", "preference", "freshness", "diversity")
DIVERSITY = COMPONENTS.index("diversity")
MICRO = 1_000_000  # scores are whole millionths: the last bits differ between hosts and batch sizes

# Every subset of the components, a row each: bit i of the row number says whether component i takes part.
_COALITIONS = (np.arange(2 ** len(COMPONENTS))[:, None] >> np.arange(len(COMPONENTS))) & 1


def _shapley_weights() -> Scores:
    """Weight of each coalition's score in each component's Shapley value. Shape (5, 32)."""
    count = len(COMPONENTS)
    sizes = _COALITIONS.sum(axis=1)
    weights = np.zeros((count, len(_COALITIONS)), np.float64)
    for i in range(count):
        for s, size in enumerate(sizes):
            others = size - _COALITIONS[s, i]
            share = math.factorial(others) * math.factorial(count - others - 1) / math.factorial(count)
            weights[i, s] = share if _COALITIONS[s, i] else -share
    return weights


_WEIGHTS = _shapley_weights()


@dataclass(frozen=True)
class Ranker:
    """The ranker graph. A component of 0 means: nothing speaks for this track."""

    session: ort.InferenceSession

    def scores(self, components: Floats, context: Floats) -> Scores:
        """Score of each candidate in 0..1. `components` (n, 5); `context` (2,): tracks heard, hour or NaN."""
        feed = {"components": components, "context": np.broadcast_to(context, (len(components), len(context)))}
        scores = np.asarray(self.session.run(None, feed)[0])[:, 0]
        return np.rint(scores.astype(np.float64) * MICRO) / MICRO

    def explain(self, components: Floats, context: Floats) -> tuple[Scores, Scores]:
        """Base score (n,) and Shapley value of each component (n, 5); base + values = score, to the millionth.

        The value of a component is its mean effect on the score over all orders in which the five can join
        (Shapley 1953), a missing one being 0. The base is the score when all are missing.
        """
        coalitions = components[:, None, :] * _COALITIONS.astype(np.float32)
        scores = self.scores(coalitions.reshape(-1, len(COMPONENTS)), context).reshape(
            len(components), len(_COALITIONS)
        )
        values = np.rint(scores @ _WEIGHTS.T * MICRO)
        # Rounding may leave a millionth or two over: they go to the largest value, so that the sum is exact.
        rest = np.rint((scores[:, -1] - scores[:, 0]) * MICRO) - values.sum(axis=1)
        values[np.arange(len(values)), np.abs(values).argmax(axis=1)] += rest
        return scores[:, 0], values / MICRO + 0.0  # no negative zeros

    def choose(self, components: Floats, vectors: Floats, context: Floats, limit: int) -> tuple[Rows, Floats]:
        """Pick up to `limit` candidates, one at a time, each the best given those before it.

        `components` (n, 5), candidates in the order that settles ties; `vectors` (n, 28) of length 1. The diversity
        of a candidate is 1 minus its greatest cosine with a picked one. Gives the picks (m,), in the order of their
        scores, and their components at the time (m, 5).
        """
        components = components.copy()
        free = np.ones(len(components), bool)
        picks, scores = [], []
        for _ in range(min(limit, len(components))):
            rows = np.flatnonzero(free)
            left = self.scores(components[rows], context)
            best = int(left.argmax())
            pick = rows[best]
            picks.append(pick)
            scores.append(left[best])
            free[pick] = False
            alike = np.clip(1 - vectors @ vectors[pick], 0, 1)
            components[free, DIVERSITY] = np.minimum(components[free, DIVERSITY], alike[free])
        order = np.array(picks, np.int64)[np.lexsort((picks, -np.array(scores)))]
        return order, components[order]
