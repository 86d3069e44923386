"""Mood: probabilities of the five moods, from the 12 audio features."""

from dataclasses import dataclass

import onnxruntime as ort

from musix_runtime.bundle.part import Graph, Part
from musix_runtime.bundle.part_files import PartFiles
from musix_runtime.models import inference
from musix_runtime.models.arrays import Floats
from musix_runtime.models.features import AUDIO, probes
from musix_runtime.schemas import ClassifyResponse

MOODS = ("happy", "sad", "energetic", "calm", "focus")


@dataclass(frozen=True)
class Mood:
    """The mood graph."""

    session: ort.InferenceSession

    def probabilities(self, audio: Floats) -> Floats:
        """Return the probabilities of the moods. `audio` (n, 12) has NaN for missing values. Shape (n, 5)."""
        return inference.probabilities(self.session, "probabilities", {"features": audio}, len(audio), len(MOODS))


def probability_error(expected: ClassifyResponse, found: ClassifyResponse, tolerance: float = 0) -> float:
    """Return the largest difference of probability."""
    actual, golden = found.mood.probabilities, expected.mood.probabilities
    return max(abs(actual[mood] - golden[mood]) for mood in golden)


def _load(files: PartFiles) -> Mood:
    mood = Mood(files.session("model"))
    files.check_outputs("model", lambda: mood.probabilities(probes(AUDIO)))
    return mood


PART = Part(
    name="mood",
    load=_load,
    classify_error=probability_error,
    labels={"moods": list(MOODS)},
    graphs={"model.onnx": Graph({"features": (1000, len(AUDIO))}, {"probabilities": len(MOODS)})},
)
