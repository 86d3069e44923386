"""The state of a process that a library must not change. Run as a program, it prints the changes of one use.

python tests/runtime/host_state.py BUNDLE USE    (see test_host_state.py)
"""

import asyncio
import atexit
import decimal
import faulthandler
import gc
import importlib
import json
import locale
import logging
import multiprocessing
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info  # sets a variable of the environment when it is imported

LIBRARIES = (
    "numpy",
    "faiss",
    "onnxruntime",
    "msgspec",
)  # on which the engine depends, and whose changes are not its own
DENORMAL = 5e-324


def state() -> dict[str, Any]:
    """Return the state of the process that a library must not change, as text and numbers."""
    return {
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "umask": _umask(),
        "limits": {
            name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name[:7] == "RLIMIT_"
        },
        "cores": sorted(os.sched_getaffinity(0)),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "locale": locale.setlocale(locale.LC_ALL),
        "signals": {
            number.name: repr(signal.getsignal(number)) for number in signal.valid_signals() if hasattr(number, "name")
        },
        "paths": [*sys.path, *map(repr, sys.meta_path), *map(repr, sys.path_hooks)],
        "hooks": [repr(hook) for hook in _hooks()],
        "collector": [gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), gc.get_debug(), len(gc.callbacks)],
        "recursion": [sys.getrecursionlimit(), sys.getswitchinterval(), threading.stack_size()],
        "debugging": [faulthandler.is_enabled(), tracemalloc.is_tracing()],
        "random": hash(random.getstate()),
        "decimal": repr(decimal.getcontext()),
        "sockets": socket.getdefaulttimeout(),
        "events": repr(asyncio.get_event_loop_policy()) if sys.version_info < (3, 14) else "",
        "starting": multiprocessing.get_start_method(allow_none=True),
        "logging": _logging(),
        "denormals": DENORMAL * 1.0 == DENORMAL,
    }


def library_state() -> dict[str, Any]:
    """Return the state that `LIBRARIES` set when they are imported, and the runtime must not change."""
    import faiss
    import numpy as np

    return {
        "threads": _tasks(),
        "python threads": [thread.name for thread in threading.enumerate()],
        "thread pools": {Path(pool["filepath"]).name: pool["num_threads"] for pool in threadpool_info()},
        "OpenMP": faiss.omp_get_max_threads(),
        "warnings": [repr(item) for item in warnings.filters],
        "at exit": atexit._ncallbacks(),
        "numpy": [repr(np.geterr()), repr(np.get_printoptions()), repr(np.random.get_state())],
        "torch": _torch(),
    }


def _tasks() -> int:
    """Return the number of threads that the system counts, those of libraries too."""
    return len(list(Path("/proc/self/task").iterdir()))


def _umask() -> int:
    old = os.umask(0)
    os.umask(old)
    return old


def _hooks() -> list[Any]:
    return [
        sys.excepthook,
        sys.unraisablehook,
        sys.displayhook,
        sys.breakpointhook,
        threading.excepthook,
        sys.gettrace(),
        sys.getprofile(),
        sys.stdout,
        sys.stderr,
        sys.getdlopenflags(),
    ]


def _logging() -> list[Any]:
    """Return the state of the root logger, and the names of loggers with a level or handler."""
    root, loggers = logging.getLogger(), logging.Logger.manager.loggerDict
    real = {name: logger for name, logger in loggers.items() if isinstance(logger, logging.Logger)}
    own = [name for name, log in real.items() if log.level or log.handlers or log.disabled or not log.propagate]
    return [root.level, len(root.handlers), root.manager.disable, logging.raiseExceptions, sorted(own)]


def _torch() -> list[int]:
    torch = sys.modules.get("torch")
    return [torch.get_num_threads(), torch.get_num_interop_threads(), torch.initial_seed()] if torch else []


def imports(bundle: str) -> None:
    import musix_runtime

    for name in musix_runtime.__all__:
        getattr(musix_runtime, name)


def answers(bundle: str) -> None:
    from musix_runtime import ClassifyRequest, Engine, RecommendRequest, SimilarRequest

    engine = Engine.open(bundle)
    track = engine.catalog.track_id(0)
    engine.classify_batch([ClassifyRequest(track_id=track)] * 100)
    engine.recommend(RecommendRequest(user_id="listener-001", limit=100))
    engine.recommend(RecommendRequest(user_id="nobody", current_track_id=track))
    engine.similar(SimilarRequest(track_id=track))


def serving(bundle: str) -> None:
    from starlette.testclient import TestClient

    from musix_runtime import Engine, create_app

    with TestClient(create_app(Engine.open(bundle))) as client:
        client.post("/api/ml/recommend", json={"userId": "listener-001"}).raise_for_status()
        client.get("/metrics").raise_for_status()


USES: dict[str, Callable[[str], None]] = {
    "imports": imports,
    "answers": answers,
    "serving": serving,
    "answers beside torch": answers,
}
HOST_IMPORTS = {"imports": (), "answers": (), "serving": ("starlette.testclient",), "answers beside torch": ("torch",)}


def main(bundle: str, use: str) -> None:
    """Print the changes of a use as JSON: {name: [before, after]}."""
    for name in HOST_IMPORTS[use]:
        importlib.import_module(name)
    before = state()
    for name in LIBRARIES:
        importlib.import_module(name)
    before |= library_state()
    USES[use](bundle)
    _until(lambda: _tasks() <= before["threads"])
    after = state() | library_state()
    print(json.dumps({name: [value, after[name]] for name, value in before.items() if value != after[name]}))


def _until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Wait until the condition is true, at most `seconds`: a stopped thread takes a moment to end."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
