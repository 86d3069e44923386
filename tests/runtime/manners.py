"""What a guest could change in its host's process. Run as a program, it tells what a visit did: see test_guest.py.

python tests/runtime/manners.py BUNDLE VISIT
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

LIBRARIES = ("numpy", "faiss", "onnxruntime", "msgspec")  # that the engine is made of: their manners are their own
DENORMAL = 5e-324


def state() -> dict[str, Any]:
    """Everything of the process that a guest must leave alone, as text and numbers."""
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
            each.name: repr(signal.getsignal(each)) for each in signal.valid_signals() if hasattr(each, "name")
        },
        "paths": [*sys.path, *map(repr, sys.meta_path), *map(repr, sys.path_hooks)],
        "hooks": [repr(each) for each in _hooks()],
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
    """What the libraries set up when they are imported, and the guest must leave so."""
    import faiss
    import numpy as np

    return {
        "threads": _tasks(),
        "python threads": [each.name for each in threading.enumerate()],
        "thread pools": {Path(each["filepath"]).name: each["num_threads"] for each in threadpool_info()},
        "OpenMP": faiss.omp_get_max_threads(),
        "warnings": [repr(each) for each in warnings.filters],
        "at exit": atexit._ncallbacks(),
        "numpy": [repr(np.geterr()), repr(np.get_printoptions()), repr(np.random.get_state())],
        "torch": _torch(),
    }


def _tasks() -> int:
    """Threads as the system counts them, Python's and those of libraries."""
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
    """The root, what logging does of itself, and every logger that has a level or handler of its own."""
    root, loggers = logging.getLogger(), logging.Logger.manager.loggerDict
    real = {name: each for name, each in loggers.items() if isinstance(each, logging.Logger)}
    own = [name for name, each in real.items() if each.level or each.handlers or each.disabled or not each.propagate]
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


VISITS: dict[str, Callable[[str], None]] = {
    "imports": imports,
    "answers": answers,
    "serving": serving,
    "answers beside torch": answers,
}
HOSTS = {"imports": (), "answers": (), "serving": ("starlette.testclient",), "answers beside torch": ("torch",)}


def main(bundle: str, visit: str) -> None:
    """Print, as JSON, what the visit changed: {name: [before, after]}."""
    for name in HOSTS[visit]:
        importlib.import_module(name)
    before = state()
    for name in LIBRARIES:
        importlib.import_module(name)
    before |= library_state()
    VISITS[visit](bundle)
    _until(lambda: _tasks() <= before["threads"])
    after = state() | library_state()
    print(json.dumps({name: [value, after[name]] for name, value in before.items() if value != after[name]}))


def _until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Return when the condition holds, or after so long: a thread that was ended takes a moment to go."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
