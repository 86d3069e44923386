"""Memory and time that a bundle needs. The figures depend on the machine, so no manifest has them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np

from musix_runtime.engine import Engine
from musix_runtime.models.features import AUDIO
from musix_runtime.models.ranker import COMPONENTS
from musix_runtime.schemas import ClassifyRequest, RecommendRequest, SimilarRequest

REPEATS = 200
WARM_UP = 20

# Opens the bundle in a process that has loaded nothing else, and prints its private memory in kB.
_OPENING = """
import sys
from musix_runtime.engine import Engine
engine = Engine.open(sys.argv[1])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon")))
"""

Call = Callable[[], object]


def private_mb(path: Path) -> float | None:
    """Return the private memory of a new process that opened the bundle, in MB (1e6 bytes); None without Linux' /proc.

    Raises CalledProcessError when the bundle cannot be opened.
    """
    if not Path("/proc/self/status").exists():
        return None
    # -P: do not import modules from the working folder
    done = subprocess.run([sys.executable, "-P", "-c", _OPENING, str(path)], stdout=subprocess.PIPE, check=True)
    return int(done.stdout) * 1024 / 1e6


def time_ratio(engine: Engine, method: str) -> float:
    """Return the time of `classify`, `recommend` or `similar`, divided by the time of its library calls alone.

    Library calls are those of ONNX Runtime and FAISS. Raises KeyError for another method.
    """
    method_call, library_calls = {"classify": _classify, "recommend": _recommend, "similar": _similar}[method](engine)
    return _ratio(method_call, library_calls)


def _ratio(first: Call, second: Call) -> float:
    """Return the ratio of the shortest times, measured alternately.

    Other processes only add time, and more to a long call than to a short one. Beside two busy processes, the ratio of
    the medians was five times that of an idle host; the ratio of the minima was the same.
    """
    times = [(_timed(first), _timed(second)) for _ in range(WARM_UP + REPEATS)][WARM_UP:]
    return min(a for a, _ in times) / min(b for _, b in times)


def _timed(call: Call) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def _classify(engine: Engine) -> tuple[Call, Call]:
    """Return `Engine.classify`, and one run of each of its two graphs."""
    request = ClassifyRequest(track_id=engine.catalog.track_id(0))
    inputs = np.array(engine.catalog.inputs[:1])
    audio = np.ascontiguousarray(inputs[:, : len(AUDIO)])
    texts = engine.genre.text_inputs([engine.catalog.artists[0].split(";")], [engine.catalog.names[0]])
    feed = {"features": inputs, **texts}

    def library_calls() -> None:
        engine.genre.session.run(None, feed)
        engine.mood.session.run(None, {"features": audio})

    return lambda: engine.classify(request), library_calls


def _recommend(engine: Engine) -> tuple[Call, Call]:
    """Return `Engine.recommend` for the first listener, and a search of each index with one run of the ranker graph."""
    retriever, serving = engine.retriever, engine.retriever.serving
    collab, content = retriever.collab, retriever.content
    listener = bytes(collab.listeners.sorted[0]).decode()
    request = RecommendRequest(user_id=listener, current_track_id=engine.catalog.track_id(0))
    factors = collab.listener_factors[0]
    (query,) = content.vectors(np.array([0]))
    components = np.full((1, serving.pool, len(COMPONENTS)), 0.5, np.float32)
    feed = {"components": components, "context": np.zeros((1, 2), np.float32)}

    def library_calls() -> None:
        collab.index.nearest(factors, serving.candidates)
        content.nearest(query, serving.candidates)
        engine.ranker.session.run(None, feed)

    return lambda: engine.recommend(request), library_calls


def _similar(engine: Engine) -> tuple[Call, Call]:
    """Return `Engine.similar`, and one search of its index."""
    request = SimilarRequest(engine.catalog.track_id(0))
    content = engine.retriever.content
    (query,) = content.vectors(np.array([0]))
    return lambda: engine.similar(request), lambda: content.nearest(query, 11)
