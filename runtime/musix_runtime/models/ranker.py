"""Ranker: scores of candidates from five components, selection of a list, and Shapley values of the components."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from musix_runtime.bundle.manifest import MAX_HISTORY, MAX_POOL
from musix_runtime.bundle.part import Graph, Part
from musix_runtime.bundle.part_files import PartFiles
from musix_runtime.models import explanation, selection
from musix_runtime.models.arrays import Floats, Rows, Scores
from musix_runtime.models.features import spread
from musix_runtime.models.inference import probabilities
from musix_runtime.models.selection import LEVELS
from musix_runtime.schemas import RecommendResponse

if TYPE_CHECKING:
    from musix_runtime.models.candidate_features import CandidateFeatures

COMPONENTS = ("collab", "content", "preference", "freshness", "diversity")
DIVERSITY = COMPONENTS.index("diversity")
MICRO = selection.MAX_SCORE  # scores are rounded to millionths, as their last bits depend on host and batch size
_LEVELS = np.arange(LEVELS + 1, dtype=np.float32) / np.float32(LEVELS)


@dataclass(frozen=True)
class Ranker:
    """The ranker graph. A component of 0 is the absence of that evidence."""

    session: Any

    def scores(self, components: Floats, context: Floats) -> Scores:
        """Return the scores of candidates in 0..1, rounded to millionths. Shape (batch, n).

        `components` (batch, n, 5). `context` (batch, 2): length of the history, hour or NaN.
        """
        return self._scores_in_millionths(components, context) / MICRO

    def _scores_in_millionths(self, components: Floats, context: Floats) -> Scores:
        inputs = {"components": components, "context": context}
        scores = probabilities(self.session, "score", inputs, components.shape[0] * components.shape[1], 1)
        return np.rint(scores.astype(np.float64) * MICRO).reshape(components.shape[:2])

    def select(self, features: "CandidateFeatures", context: Floats, limits: Rows) -> tuple[Rows, Floats, Rows]:
        """Select up to `limits` (batch,) candidates of each request greedily: the best one given the selected ones.

        Returns their positions in the concatenated candidates of the batch (batch, m), their components at the time of
        the selection (batch, m, 5), and the lengths of the lists (batch,).
        """
        batch, n, _ = features.components.shape
        grid = np.repeat(features.components[:, :, None], LEVELS + 1, axis=2)
        grid[..., DIVERSITY] = _LEVELS
        scores = self._scores_in_millionths(grid.reshape(batch, -1, len(COMPONENTS)), context).reshape(batch, n, -1)
        diversity = selection.pairwise_diversity(features.vectors)
        positions, levels, lengths = selection.select_diverse(
            scores, diversity, features.valid, limits, features.artists, features.max_per_artist
        )
        components = features.components.reshape(-1, len(COMPONENTS)).take(positions, axis=0)
        components[..., DIVERSITY] = _LEVELS.take(levels)
        return positions, components, lengths

    def explain(self, components: Floats, context: Floats) -> tuple[Scores, Scores]:
        """Return the base scores (batch, n) and the Shapley values (batch, n, 5), which sum to the scores exactly.

        The value of a component is its mean effect on the score over all orders of adding the components (Shapley
        1953). A missing component is 0; the base is the score without any.
        """
        batch, n, _ = components.shape
        coalitions = components[:, :, None] * explanation.COALITIONS
        scores = self._scores_in_millionths(coalitions.reshape(batch, -1, len(COMPONENTS)), context).reshape(
            batch, n, -1
        )
        return scores[..., 0] / MICRO, explanation.shapley_values(scores) / MICRO


@dataclass(frozen=True)
class BlendSession:
    """A session in place of the network: the score is the sum of the components by `weights` (5,), divided by the sum
    of the weights if that is above 1."""

    weights: Floats

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Floats]) -> list[Scores]:
        """Return the score of each candidate. Shape (batch * n, 1)."""
        weights = self.weights.astype(np.float64)
        weights /= max(weights.sum(), 1)
        return [(inputs["components"] * weights).sum(axis=-1).reshape(-1, 1)]


def score_error(expected: RecommendResponse, found: RecommendResponse, tolerance: float) -> float:
    """Return the largest difference of scores at the same position; infinity for another list.

    Tracks whose scores differ by at most `tolerance` may be in another order.
    """
    actual, golden = found.recommendations, expected.recommendations
    if len(actual) != len(golden) or found.source != expected.source:
        return float("inf")
    ids, worst = {track.id for track in golden}, 0.0
    for track, golden_track in zip(actual, golden, strict=True):
        if track.id not in ids and track.score - golden[-1].score > tolerance:
            return float("inf")
        worst = max(worst, abs(track.score - golden_track.score))
    return worst


def _load(files: PartFiles) -> Ranker:
    ranker = Ranker(files.session("model"))
    context = np.array(list(product((0, 1, MAX_HISTORY), (np.nan, *range(24)))), np.float32)
    components = np.repeat(np.vstack([explanation.COALITIONS, spread(len(COMPONENTS))])[None], len(context), axis=0)
    files.check_outputs("model", lambda: ranker.scores(components, context))
    return ranker


PART = Part(
    name="ranker",
    load=_load,
    recommend_error=score_error,
    labels={"components": list(COMPONENTS)},
    graphs={  # it runs twice for each recommendation, on few rows
        "model.onnx": Graph(
            {"components": (16, MAX_POOL * (LEVELS + 1), len(COMPONENTS)), "context": (16, 2)}, {"score": 1}, arena=True
        )
    },
)
