"""The server of a process of our own: uvicorn around the application, with one worker or several."""

import ctypes
import gc
import logging
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from musix_runtime import settings
from musix_runtime.app import create_app
from musix_runtime.connection_limits import fit_descriptors
from musix_runtime.door import Door
from musix_runtime.engine import Engine
from musix_runtime.errors import InputError, MusixError
from musix_runtime.live import Live
from musix_runtime.settings import Settings
from musix_runtime.supervisor import Supervisor

logger = logging.getLogger("uvicorn.error")  # which uvicorn sets up
STOP_SECONDS = 10  # for requests under way, once the server was told to stop
BACKLOG = 1024  # connections that wait to be accepted: more would wait too long, fewer would be lost in a burst
SOCKET_BUFFER = 64 * 1024  # bytes to send and to receive: what is read at a time of a large body holds nobody else
HEALTH_CHECK_S = 30  # in which a worker must show that it lives; reading a large bundle takes some of it
M_MMAP_THRESHOLD = -3  # glibc's malloc.h
LARGE = 128 * 1024  # bytes; its default, which would grow with the blocks that are asked for


def run(path: Path, trust: Path | None, host: str, port: int, workers: int | None, access_log: bool) -> None:
    """Serve the bundle or store at `path` until told to stop. Raises InputError, StoreError or BundleError at once,
    WorkerError when worker processes cannot start.

    `workers` None takes `WEB_CONCURRENCY`. Requests that were taken are finished first, within `STOP_SECONDS`.
    """
    found = Settings.from_environment()
    found = replace(found, access_log=found.access_log or access_log)
    count = settings.worker_count(workers)
    sockets = bind(host, port)
    live = Live.open(path, partial(Engine.open, trust=trust))
    with suppress(KeyboardInterrupt):
        if count == 1:
            app = _application(live, found)
            server = uvicorn.Server(_config(app))
            _log_addresses(sockets)
            server.run(sockets)
            return
        del live  # it was opened to tell what is wrong before any worker starts
        with _metrics_folder() as metrics:
            settings.hand_down(path, trust, metrics, found.access_log)
            config = _config("musix_runtime.server:worker", factory=True, workers=count)
            _log_addresses(sockets)
            Supervisor(config, sockets).run()


def worker() -> Starlette:
    """The application of one of several workers. Ends the process with one sentence when the bundle is not good."""
    opener = partial(Engine.open, trust=settings.trusted_key())
    try:
        return _application(Live.open(settings.bundle_path(), opener), Settings.from_environment())
    except MusixError as error:
        logger.error("error: %s", error)
        sys.exit(error.exit_code)


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to every address of `host`, IPv4 or IPv6; none listens yet. Raises InputError."""
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            if bound and port == 0:
                address = (address[0], bound[0].getsockname()[1], *address[2:])
            bound.append(_bound(family, address, both=host == "::"))
    except OSError as error:
        for each in bound:
            each.close()
        reason = error.strerror or error
        raise InputError(f"{_shown(host, port)}: expected a free port to listen on, found: {reason}") from error
    return bound


def _bound(family: int, address: Any, both: bool) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            only = not (both and socket.has_dualstack_ipv6())  # "::" takes IPv4, too, where the system can
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only))
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # which accepted sockets inherit
            opened.setsockopt(socket.SOL_SOCKET, buffer, SOCKET_BUFFER)
        opened.bind(address)
        opened.set_inheritable(True)
    except OSError:
        opened.close()
        raise
    return opened


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _log_addresses(sockets: list[socket.socket]) -> None:
    for each in sockets:
        host, port = each.getsockname()[:2]
        logger.info("Serving on http://%s (press CTRL+C to stop)", _shown(host, port))


def _config(app: Starlette | str, **options: Any) -> uvicorn.Config:
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
        timeout_worker_healthcheck=HEALTH_CHECK_S,
        **options,
    )


@contextmanager
def _metrics_folder() -> Iterator[Path | None]:
    """Where the workers count together, until left; None where nothing can be written."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="musix-metrics-")
    except OSError as error:
        logger.warning(
            "/metrics counts the requests of the answering worker alone: expected a folder to write to, found: %s; "
            "mount one and name it in TMPDIR to count those of all workers",
            error.strerror or error,
        )
        yield None
        return
    with folder as path:
        yield Path(path)


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
