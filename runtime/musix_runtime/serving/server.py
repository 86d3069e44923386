"""One worker process of `musix serve`: uvicorn with the application and our protocol."""

import ctypes
import gc
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from musix_runtime.engine import Engine
from musix_runtime.serving.app import create_app
from musix_runtime.serving.connection_limits import fit_descriptors
from musix_runtime.serving.load_shedding import LoadSheddingProtocol
from musix_runtime.serving.model_manager import ModelManager
from musix_runtime.settings import Settings

logger = logging.getLogger(__name__)
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
STOP_TIMEOUT_S = 10  # for requests under way when the server stops
SWITCH_INTERVAL_S = 0.0005  # a tenth of Python's: a thread with a large request lets the event loop run sooner
BACKLOG = 1024  # connections that wait to be accepted: enough for a burst, few enough to be answered in time
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # glibc's malloc.h
MMAP_THRESHOLD_BYTES = 128 * 1024  # the default, which would grow with the size of freed blocks


def run(
    path: Path,
    trust: Path | None,
    sockets: list[socket.socket],
    access_log: bool,
    feedback: str | None,
    announce: Callable[[], None],
) -> None:
    """Serve the bundle or registry at `path` in this process until a signal stops it.

    Requests under way are finished within `STOP_TIMEOUT_S`. Raises InputError, StoreError or BundleError before the
    first request.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    logging.basicConfig(format=LOG_FORMAT, level=logging.INFO)
    settings = Settings.from_environment()
    settings = replace(settings, access_log=settings.access_log or access_log, feedback=feedback or settings.feedback)
    _use_one_heap()
    manager = ModelManager.open(path, partial(Engine.open, trust=trust))
    app = _application(manager, settings)
    logger.info("%s answers", manager.latest.bundle.label)
    announce()
    with suppress(KeyboardInterrupt):
        uvicorn.Server(_config(app)).run(sockets)


def _config(app: Starlette) -> uvicorn.Config:
    """Return uvicorn's configuration. Its own limits are off, as the protocol has others."""
    return uvicorn.Config(
        app,
        http=LoadSheddingProtocol,
        ws="none",
        backlog=BACKLOG,
        access_log=False,
        proxy_headers=False,  # no answer depends on the client's address
        server_header=False,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
    )


def _application(manager: ModelManager, settings: Settings) -> Starlette:
    app = create_app(manager, replace(settings, max_connections=fit_descriptors(settings)))
    _freeze_heap()
    return app


def _use_one_heap() -> None:
    """Let all threads allocate from one heap. With a heap for each thread, glibc would keep what the threads that
    verify a bundle have freed."""
    if libc := _glibc():
        libc.mallopt(M_ARENA_MAX, 1)


def _freeze_heap() -> None:
    """Exclude all objects from garbage collection, and return freed memory to the system, from now on also that of
    large blocks: what was loaded stays until the process ends. glibc would keep the memory that ONNX Runtime needed to
    read its graphs. To verify a bundle without large blocks of the heap would take longer."""
    gc.collect()
    gc.freeze()
    if libc := _glibc():
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """Return the C library if it is glibc."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "malloc_trim") else None
