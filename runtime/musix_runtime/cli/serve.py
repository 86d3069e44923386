"""Serving from the command line: what the parent of the workers does. It imports nothing of the server."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from musix_runtime import settings
from musix_runtime.atomic import remove, writing
from musix_runtime.cli.sockets import bind, show_address
from musix_runtime.cli.supervisor import call_in_child, supervise

logger = logging.getLogger(__name__)


def serve(
    path: Path, trust: Path | None, host: str, port: int, workers: int | None, access_log: bool, snapshot: bool
) -> None:
    """Serve the bundle or store at `path` until told to stop; with `snapshot`, a private copy of it.

    `workers` None takes `WEB_CONCURRENCY`. Raises InputError, StoreError, BundleError or OutputError for what cannot be
    served, WorkerError when workers cannot stay.
    """
    count = settings.worker_count(workers)
    signal.signal(signal.SIGTERM, _leave)  # which removes the folders
    with ExitStack() as stack:
        sockets = bind(host, port)
        if snapshot:
            folder = stack.enter_context(_temporary_folder("snapshot"))
            call_in_child(lambda: _copy(path, trust, folder))
            (path,) = folder.iterdir()
        if count > 1 and (metrics := stack.enter_context(_metrics_folder())):
            settings.share_metrics(metrics)
        for each in sockets:
            address = show_address(*each.getsockname()[:2])
            print(f"{path}: on http://{address} (press CTRL+C to stop)", flush=True)
        supervise(lambda: _run(path, trust, sockets, access_log), count)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _run(path: Path, trust: Path | None, sockets: list[Any], access_log: bool) -> None:
    from musix_runtime.serving import server

    server.run(path, trust, sockets, access_log)


def _copy(path: Path, trust: Path | None, folder: Path) -> None:
    from musix_runtime.errors import InputError
    from musix_runtime.models.parts import open_bundle
    from musix_runtime.registry import registry

    if registry.find(path):
        raise InputError(f"{path}: expected a bundle to copy, found a store, whose versions are never written over")
    bundle = open_bundle(path, trust)
    copy = folder / bundle.name
    with writing(copy):
        bundle.copy(copy)


@contextmanager
def _temporary_folder(use: str) -> Iterator[Path]:
    """A new folder, which the process that made it removes; its children leave it alone."""
    folder, owner = Path(tempfile.mkdtemp(prefix=f"musix-{use}-")), os.getpid()
    try:
        yield folder
    finally:
        if os.getpid() == owner:
            remove(folder)


@contextmanager
def _metrics_folder() -> Iterator[Path | None]:
    """Where the workers count together, until left; None where nothing can be written."""
    try:
        stack = ExitStack()
        folder = stack.enter_context(_temporary_folder("metrics"))
    except OSError as error:
        logger.warning(
            "/metrics counts the requests of the answering worker alone: expected a folder to write to, found: %s; "
            "mount one and name it in TMPDIR to count those of all workers",
            error.strerror or error,
        )
        yield None
        return
    with stack:
        yield folder
