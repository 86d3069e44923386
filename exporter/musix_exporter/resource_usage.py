"""Cost: what a bundle asks of its host, in memory and time. Figures of this machine, so never in a manifest."""

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

# Opens the bundle as a host would, in a process that has loaded nothing else, and prints its private pages in kB.
_OPENING = """
import sys
from musix_runtime.engine import Engine
engine = Engine.open(sys.argv[1])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon")))
"""

Call = Callable[[], object]


def private_mb(path: Path) -> float | None:
    """Private memory of a fresh process that opened the bundle, in MB (1e6 bytes); None where there is no Linux /proc.

    Raises CalledProcessError when the bundle does not open.
    """
    if not Path("/proc/self/status").exists():
        return None
    # -P: no module is taken from the working folder
    found = subprocess.run([sys.executable, "-P", "-c", _OPENING, str(path)], stdout=subprocess.PIPE, check=True)
    return int(found.stdout) * 1024 / 1e6


def multiple(engine: Engine, answer: str) -> float:
    """Time of an answer (`classify`, `recommend`, `similar`) over that of the bare kernels behind it; else KeyError."""
    whole, kernels = {"classify": _classify, "recommend": _recommend, "similar": _similar}[answer](engine)
    return _ratio(whole, kernels)


def _ratio(whole: Call, kernels: Call) -> float:
    """The fastest of each, timed in turns. What else the machine does only ever adds, and to a long answer more than to
    a short kernel: beside two busy processes the ratio of medians is five times that of an idle host, this one is not.
    """
    times = [(_timed(whole), _timed(kernels)) for _ in range(WARM_UP + REPEATS)][WARM_UP:]
    return min(a for a, _ in times) / min(b for _, b in times)


def _timed(call: Call) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def _classify(engine: Engine) -> tuple[Call, Call]:
    """Beside one run of each of the two graphs."""
    request = ClassifyRequest(track_id=engine.catalog.track_id(0))
    inputs = np.array(engine.catalog.inputs[:1])
    audio = np.ascontiguousarray(inputs[:, : len(AUDIO)])
    texts = engine.genre.text_inputs([engine.catalog.artists[0].split(";")], [engine.catalog.names[0]])
    feed = {"features": inputs, **texts}

    def kernels() -> None:
        engine.genre.session.run(None, feed)
        engine.mood.session.run(None, {"features": audio})

    return lambda: engine.classify(request), kernels


def _recommend(engine: Engine) -> tuple[Call, Call]:
    """For the first listener, beside a search of each index and one run of the ranker graph."""
    retriever, serving = engine.retriever, engine.retriever.serving
    collab, content = retriever.collab, retriever.content
    listener = bytes(collab.listeners.sorted[0]).decode()
    request = RecommendRequest(user_id=listener, current_track_id=engine.catalog.track_id(0))
    factors = collab.listener_factors[0]
    (query,) = content.vectors(np.array([0]))
    components = np.full((1, serving.pool, len(COMPONENTS)), 0.5, np.float32)
    feed = {"components": components, "context": np.zeros((1, 2), np.float32)}

    def kernels() -> None:
        collab.index.nearest(factors, serving.candidates)
        content.nearest(query, serving.candidates)
        engine.ranker.session.run(None, feed)

    return lambda: engine.recommend(request), kernels


def _similar(engine: Engine) -> tuple[Call, Call]:
    """Beside one index search."""
    request = SimilarRequest(engine.catalog.track_id(0))
    content = engine.retriever.content
    (query,) = content.vectors(np.array([0]))
    return lambda: engine.similar(request), lambda: content.nearest(query, 11)
