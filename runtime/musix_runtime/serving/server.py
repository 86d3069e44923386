"""The server of a process of our own: uvicorn around the application, with one worker or several."""

import ctypes
import gc
import logging
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from musix_runtime.engine import Engine
from musix_runtime.serving.app import create_app
from musix_runtime.serving.connection_limits import fit_descriptors
from musix_runtime.serving.load_shedding import Door
from musix_runtime.serving.model_manager import Live
from musix_runtime.settings import Settings

logger = logging.getLogger("uvicorn.error")  # which uvicorn sets up
STOP_SECONDS = 10  # for requests under way, once the server was told to stop
BACKLOG = 1024  # connections that wait to be accepted: more would wait too long, fewer would be lost in a burst
M_MMAP_THRESHOLD = -3  # glibc's malloc.h
LARGE = 128 * 1024  # bytes; its default, which would grow with the blocks that are asked for


def run(path: Path, trust: Path | None, sockets: list[socket.socket], access_log: bool) -> None:
    """Serve the bundle or store at `path` in this process until told to stop. Raises InputError, StoreError or
    BundleError at once. Requests that were taken are finished first, within `STOP_SECONDS`.
    """
    found = Settings.from_environment()
    found = replace(found, access_log=found.access_log or access_log)
    app = _application(Live.open(path, partial(Engine.open, trust=trust)), found)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(_config(app)).run(sockets)


def _config(app: Starlette) -> uvicorn.Config:
    """Uvicorn's configuration. Its limits are not used: the protocol has its own."""
    return uvicorn.Config(
        app,
        http=Door,
        ws="none",
        backlog=BACKLOG,
        access_log=False,
        proxy_headers=False,  # nothing here depends on where a request comes from
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


def _application(live: Live, found: Settings) -> Starlette:
    app = create_app(live, replace(found, max_connections=fit_descriptors(found)))
    _settle()
    return app


def _settle() -> None:
    """After loading: what is there stays, so no collection need look at it again. What was freed is given back, as
    large blocks will be from now on: glibc keeps what ONNX Runtime needed to read its graphs, and what a batch took."""
    gc.collect()
    gc.freeze()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)
