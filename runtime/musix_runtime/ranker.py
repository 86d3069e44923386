"""Ranker: from five components of a candidate to a score in 0..1, and each component's exact share in it."""

import math
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from musix_runtime.arrays import Floats, Rows, Scores

COMPONENTS = ("collab", "content", "preference", "freshness", "diversity")
DIVERSITY = COMPONENTS.index("diversity")
STEPS = 10  # diversity comes in tenths, so that the scores of a candidate at every diversity are few
MICRO = 1_000_000  # scores are whole millionths: the last bits differ between hosts and batch sizes

# Every subset of the components, a row each: bit i of the row number says whether component i takes part.
_COALITIONS = ((np.arange(2 ** len(COMPONENTS))[:, None] >> np.arange(len(COMPONENTS))) & 1).astype(np.float32)


def _shapley_weights() -> Scores:
    """Weight of each coalition's score in each component's Shapley value. Shape (32, 5)."""
    count = len(COMPONENTS)
    sizes = _COALITIONS.sum(axis=1).astype(int).tolist()
    weights = np.zeros((len(_COALITIONS), count), np.float64)
    for i in range(count):
        for s, size in enumerate(sizes):
            others = size - int(_COALITIONS[s, i])
            share = math.factorial(others) * math.factorial(count - others - 1) / math.factorial(count)
            weights[s, i] = share if _COALITIONS[s, i] else -share
    return weights


_WEIGHTS = _shapley_weights()
_DIVERSITIES = np.arange(STEPS + 1, dtype=np.float32)[:, None] / STEPS
_BELOW = np.array([-1.0])
_FINE = 2048  # to which vectors are rounded for diversity: products of such are whole numbers below 2**24, and exact


def diversity_steps(vectors: Floats) -> NDArray[np.int64]:
    """Diversity of each of the vectors (n, 28), of length 1, beside each other: 1 minus the cosine, not above 1, in
    whole `STEPS`. The same on every host, in whatever order its linear algebra adds. Shape (n, n)."""
    whole = np.rint(vectors * _FINE)
    apart = _FINE * _FINE - whole @ whole.T
    apart *= STEPS / _FINE / _FINE
    np.rint(apart, out=apart)
    return np.maximum(np.minimum(apart, STEPS, out=apart), 0, out=apart).astype(np.int64)


@dataclass(frozen=True)
class Ranker:
    """The ranker graph. A component of 0 means: nothing speaks for this track."""

    session: ort.InferenceSession

    def scores(self, components: Floats, context: Floats) -> Scores:
        """Score of each candidate in 0..1. `components` (n, 5); `context` (2,): tracks heard, hour or NaN."""
        return self._micro(components, context) / MICRO

    def _micro(self, components: Floats, context: Floats) -> Scores:
        """Scores in whole millionths."""
        (scores,) = self.session.run(None, {"components": components, "context": context[None]})
        return np.rint(scores[:, 0].astype(np.float64) * MICRO)

    def explain(self, components: Floats, context: Floats) -> tuple[Scores, Scores]:
        """Base score (n,) and Shapley value of each component (n, 5); base + values = score, to the millionth.

        The value of a component is its mean effect on the score over all orders in which the five can join
        (Shapley 1953), a missing one being 0. The base is the score when all are missing.
        """
        coalitions = (components[:, None] * _COALITIONS).reshape(-1, len(COMPONENTS))
        scores = self._micro(coalitions, context).reshape(len(components), len(_COALITIONS))
        values = np.rint(scores @ _WEIGHTS)
        # Rounding may leave a millionth or two over: they go to the largest value, so that the sum is exact.
        rest = scores[:, -1] - scores[:, 0] - values.sum(axis=1)
        values[np.arange(len(values)), np.abs(values).argmax(axis=1)] += rest
        return scores[:, 0] / MICRO, values / MICRO + 0.0  # no negative zeros

    def choose(self, components: Floats, vectors: Floats, context: Floats, limit: int) -> tuple[Rows, Floats]:
        """Pick up to `limit` candidates, one at a time, each the best given those before it.

        `components` (n, 5), candidates in the order that settles ties; `vectors` (n, 28) of length 1. The diversity
        of a candidate is that beside the picked one most like it. Gives the picks (m,), in the order of their scores,
        and their components at the time (m, 5).
        """
        count = len(components)
        columns = np.arange(count)
        # Every score that may be needed, in one list: at STEPS + 1 diversities, for each of the candidates; place 0 is
        # below them all, and is where a picked candidate stays.
        scores = np.concatenate([_BELOW, self._at_each_diversity(components, context)])
        columns += 1
        beside = diversity_steps(vectors)
        beside *= count
        beside += columns
        places = STEPS * count + columns
        picks, found = np.empty((2, min(limit, count)), np.int64)
        for i in range(len(picks)):
            pick = scores.take(places).argmax()
            picks[i] = pick
            found[i] = places[pick]
            np.minimum(places, beside[pick], out=places)
            places[pick] = 0
        order = np.lexsort((picks, -scores[found]))
        picks, found = picks[order], found[order]
        components = components[picks]
        components[:, DIVERSITY] = (found - 1) // count / STEPS
        return picks, components

    def _at_each_diversity(self, components: Floats, context: Floats) -> Scores:
        """Scores, in millionths, of all candidates at diversity 0, then at 1/STEPS, and so on: (STEPS + 1) * n."""
        every = np.empty((STEPS + 1, *components.shape), np.float32)
        every[:] = components
        every[:, :, DIVERSITY] = _DIVERSITIES
        return self._micro(every.reshape(-1, len(COMPONENTS)), context)
