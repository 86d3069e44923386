"""The server of a process of our own: uvicorn around the application, with one worker or several."""

import ctypes
import gc
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from musix_runtime import settings
from musix_runtime.app import create_app
from musix_runtime.door import Door
from musix_runtime.engine import Engine
from musix_runtime.live import Live
from musix_runtime.settings import Settings

STOP_SECONDS = 10  # for requests under way, once the server was told to stop
M_MMAP_THRESHOLD = -3  # glibc's malloc.h
LARGE = 128 * 1024  # bytes; its default, which would grow with the blocks that are asked for


def run(path: Path, trust: Path | None, host: str, port: int, workers: int, access_log: bool) -> None:
    """Serve the bundle or store at `path` until told to stop. Raises InputError, StoreError or BundleError at once.

    Requests that were taken are finished first, within `STOP_SECONDS`.
    """
    found = Settings.from_environment()
    found = replace(found, access_log=found.access_log or access_log)
    live = Live.open(path, partial(Engine.open, trust=trust))
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "http": Door,
        "access_log": False,
        "proxy_headers": False,  # nothing here depends on where a request comes from
        "server_header": False,
        "timeout_graceful_shutdown": STOP_SECONDS,
    }
    if workers == 1:
        app = create_app(live, found)
        _settle()
        uvicorn.run(app, **options)
        return
    del live  # it was opened to tell what is wrong before any worker starts
    with tempfile.TemporaryDirectory(prefix="musix-metrics-") as metrics:
        settings.hand_down(path, trust, Path(metrics), found.access_log)
        uvicorn.run("musix_runtime.server:worker", factory=True, workers=workers, **options)


def worker() -> Any:
    """The application of one of several workers."""
    opener = partial(Engine.open, trust=settings.trusted_key())
    app = create_app(Live.open(settings.bundle_path(), opener), Settings.from_environment())
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
