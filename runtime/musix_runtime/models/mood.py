"""Mood: from the 12 audio features to a probability for each of the five moods."""

from dataclasses import dataclass

import onnxruntime as ort

from musix_runtime.bundle.part import Graph, Part
from musix_runtime.bundle.part_files import PartFiles
from musix_runtime.models import inference
from musix_runtime.models.arrays import Floats
from musix_runtime.models.features import AUDIO
from musix_runtime.schemas import ClassifyResponse

MOODS = ("happy", "sad", "energetic", "calm", "focus")


@dataclass(frozen=True)
class Mood:
    """The mood graph."""

    session: ort.InferenceSession

    def probabilities(self, audio: Floats) -> Floats:
        """Probability of each mood, summing to 1. `audio` (n, 12), NaN where missing. Shape (n, 5)."""
        return inference.probabilities(self.session, "probabilities", {"features": audio}, len(audio), len(MOODS))


def probability_error(expected: ClassifyResponse, found: ClassifyResponse, tolerance: float = 0) -> float:
    """Return the largest difference of probability."""
    ours, theirs = found.mood.probabilities, expected.mood.probabilities
    return max(abs(ours[mood] - theirs[mood]) for mood in theirs)


def _load(files: PartFiles) -> Mood:
    return Mood(files.session("model"))


PART = Part(
    name="mood",
    load=_load,
    classify_error=probability_error,
    labels={"moods": list(MOODS)},
    graphs={"model.onnx": Graph({"features": (1000, len(AUDIO))}, {"probabilities": len(MOODS)})},
)
