"""Ranker: from five components of a candidate to a score in 0..1, a list, and each component's exact share in it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from musix_runtime.bundle.part import Graph, Part
from musix_runtime.bundle.part_files import PartFiles
from musix_runtime.models import explanation, selection
from musix_runtime.models.arrays import Floats, Rows, Scores
from musix_runtime.models.inference import probabilities
from musix_runtime.models.selection import LEVELS
from musix_runtime.schemas import RecommendResponse

if TYPE_CHECKING:
    from musix_runtime.models.candidate_features import CandidateFeatures

COMPONENTS = ("collab", "content", "preference", "freshness", "diversity")
DIVERSITY = COMPONENTS.index("diversity")
MICRO = 1_000_000  # scores are whole millionths: the last bits differ between hosts and batch sizes
_LEVELS = np.arange(LEVELS + 1, dtype=np.float32) / np.float32(LEVELS)


@dataclass(frozen=True)
class Ranker:
    """The ranker graph. A component of 0 means: nothing speaks for this track."""

    session: Any

    def scores(self, components: Floats, context: Floats) -> Scores:
        """Score of each candidate in 0..1, in whole millionths. `components` (batch, n, 5); `context` (batch, 2):
        tracks heard, hour or NaN. Shape (batch, n)."""
        return self._whole_scores(components, context) / MICRO

    def _whole_scores(self, components: Floats, context: Floats) -> Scores:
        inputs = {"components": components, "context": context}
        scores = probabilities(self.session, "score", inputs, components.shape[0] * components.shape[1], 1)
        return np.rint(scores.astype(np.float64) * MICRO).reshape(components.shape[:2])

    def select(self, features: "CandidateFeatures", context: Floats, limits: Rows) -> tuple[Rows, Floats]:
        """Choose up to `limits` (batch,) candidates of each request, each the best beside those before it, in the order
        of their scores. Gives their places among the candidates of the batch, end to end (batch, m), and their
        components at the time (batch, m, 5)."""
        batch, n, _ = features.components.shape
        every = np.repeat(features.components[:, :, None], LEVELS + 1, axis=2)
        every[..., DIVERSITY] = _LEVELS
        scores = self._whole_scores(every.reshape(batch, -1, len(COMPONENTS)), context).reshape(batch, n, -1)
        diversity = selection.pairwise_diversity(features.vectors)
        places, levels = selection.select_diverse(scores, diversity, features.valid, limits)
        components = features.components.reshape(-1, len(COMPONENTS)).take(places, axis=0)
        components[..., DIVERSITY] = _LEVELS.take(levels)
        return places, components

    def explain(self, components: Floats, context: Floats) -> tuple[Scores, Scores]:
        """Base score (batch, n) and Shapley value of each component (batch, n, 5); base + values = score, to the
        millionth.

        The value of a component is its mean effect on the score over all orders in which the five can join
        (Shapley 1953), a missing one being 0. The base is the score when all are missing.
        """
        batch, n, _ = components.shape
        coalitions = components[:, :, None] * explanation.COALITIONS
        scores = self._whole_scores(coalitions.reshape(batch, -1, len(COMPONENTS)), context).reshape(batch, n, -1)
        return scores[..., 0] / MICRO, explanation.shapley_values(scores) / MICRO


def score_error(expected: RecommendResponse, found: RecommendResponse, tolerance: float) -> float:
    """Return the largest difference of score at the same position; infinite for another list.

    Neighbours whose scores differ by at most `tolerance` may change places.
    """
    ours, theirs = found.recommendations, expected.recommendations
    if len(ours) != len(theirs) or found.source != expected.source:
        return float("inf")
    ids, worst = {each.id for each in theirs}, 0.0
    for mine, wanted in zip(ours, theirs, strict=True):
        if mine.id not in ids and mine.score - theirs[-1].score > tolerance:
            return float("inf")
        worst = max(worst, abs(mine.score - wanted.score))
    return worst


def _load(files: PartFiles) -> Ranker:
    return Ranker(files.session("model"))


PART = Part(
    name="ranker",
    load=_load,
    recommend_error=score_error,
    labels={"components": list(COMPONENTS)},
    graphs={  # which runs twice for each recommendation, on few rows
        "model.onnx": Graph({"components": (16, 1100, len(COMPONENTS)), "context": (16, 2)}, {"score": 1}, arena=True)
    },
)
