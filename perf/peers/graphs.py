"""The ONNX models of a bundle as model servers run them: ONNX Runtime with one thread."""

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
        self._families = next(port.shape[1] for port in self._genre.get_inputs() if port.name == "title")

    def genre(self, inputs: Floats, artist: Floats, case: Floats) -> Floats:
        """Return the confidence of each family."""
        title = np.zeros((len(inputs), self._families), np.float32)  # used only when no artist is known
        feed = {"features": inputs, "artist": artist, "title": title, "case": case}
        return np.asarray(self._genre.run(None, feed)[0])

    def mood(self, audio: Floats) -> Floats:
        """Return the probability of each mood."""
        return np.asarray(self._mood.run(None, {"features": audio})[0])

    def score(self, components: Floats, context: Floats) -> Floats:
        """Return the score of each candidate."""
        return np.asarray(self._ranker.run(None, {"components": components, "context": context[None]})[0])[:, 0]
