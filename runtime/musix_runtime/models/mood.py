"""Mood: from the 12 audio features to a probability for each of the five moods."""

from dataclasses import dataclass

import onnxruntime as ort

from musix_runtime.models import inference
from musix_runtime.models.arrays import Floats

MOODS = ("happy", "sad", "energetic", "calm", "focus")


@dataclass(frozen=True)
class Mood:
    """The mood graph."""

    session: ort.InferenceSession

    def probabilities(self, audio: Floats) -> Floats:
        """Probability of each mood, summing to 1. `audio` (n, 12), NaN where missing. Shape (n, 5)."""
        return inference.probabilities(self.session, "probabilities", {"features": audio}, len(audio), len(MOODS))
