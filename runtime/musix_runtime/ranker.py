"""Ranker: from five components of a candidate to a score in 0..1, and each component's exact share in it."""

from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from musix_runtime import kernels
from musix_runtime.arrays import Floats, Rows, Scores
from musix_runtime.inference import probabilities

COMPONENTS = ("collab", "content", "preference", "freshness", "diversity")
DIVERSITY = COMPONENTS.index("diversity")
STEPS = 10  # diversity comes in tenths, so that the scores of a candidate at every diversity are few
MICRO = 1_000_000  # scores are whole millionths: the last bits differ between hosts and batch sizes
COALITIONS = 2 ** len(COMPONENTS)


@dataclass(frozen=True)
class Ranker:
    """The ranker graph. A component of 0 means: nothing speaks for this track."""

    session: ort.InferenceSession

    def scores(self, components: Floats, context: Floats) -> Scores:
        """Score of each candidate in 0..1, in whole millionths. `components` (n, 5); `context` (2,): tracks heard, hour
        or NaN."""
        return np.rint(self._run(components, context)[:, 0].astype(np.float64) * MICRO) / MICRO

    def _run(self, components: Floats, context: Floats) -> Floats:
        inputs = {"components": components, "context": context[None]}
        return probabilities(self.session, "score", inputs, len(components), 1)

    def explain(self, components: Floats, context: Floats) -> tuple[Scores, Scores]:
        """Base score (n,) and Shapley value of each component (n, 5); base + values = score, to the millionth.

        The value of a component is its mean effect on the score over all orders in which the five can join
        (Shapley 1953), a missing one being 0. The base is the score when all are missing.
        """
        every = np.empty((len(components) * COALITIONS, len(COMPONENTS)), np.float32)
        kernels.coalitions(components, every)
        base, values = np.empty(len(components)), np.empty(components.shape)
        kernels.explain(self._run(every, context), base, values)
        return base, values

    def choose(self, components: Floats, vectors: Floats, context: Floats, limit: int) -> tuple[Rows, Floats]:
        """Pick up to `limit` candidates, one at a time, each the best given those before it.

        `components` (n, 5), candidates in the order that settles ties; `vectors` (n, 28) of length 1. The diversity
        of a candidate is that beside the picked one most like it. Gives the picks (m,), in the order of their scores,
        and their components at the time (m, 5).
        """
        every = np.empty(((STEPS + 1) * len(components), len(COMPONENTS)), np.float32)
        kernels.at_each_diversity(components, every)
        picks = np.empty(min(limit, len(components)), np.int64)
        chosen = np.empty((len(picks), len(COMPONENTS)), np.float32)
        kernels.choose(self._run(every, context), vectors, components, picks, chosen)
        return picks, chosen
