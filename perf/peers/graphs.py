"""Graphs: the bundle's ONNX models as the hosts of models run them: ONNX Runtime, one thread."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from perf.peers.recommender import Floats


class GraphModels:
    """The three graphs of a bundle folder."""

    def __init__(self, bundle: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._genre, self._mood, self._ranker = (
            ort.InferenceSession(bundle / part / "model.onnx", options, ["CPUExecutionProvider"])
            for part in ("genre", "mood", "ranker")
        )

    def genre(self, inputs: Floats, artist: Floats, known: Floats) -> Floats:
        """Confidence of each family."""
        return np.asarray(self._genre.run(None, {"features": inputs, "artist": artist, "known": known})[0])

    def mood(self, audio: Floats) -> Floats:
        """Probability of each mood."""
        return np.asarray(self._mood.run(None, {"features": audio})[0])

    def score(self, components: Floats, context: Floats) -> Floats:
        """Score of each candidate."""
        return np.asarray(self._ranker.run(None, {"components": components, "context": context[None]})[0])[:, 0]
