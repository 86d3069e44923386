"""The command `musix serve`: the parent of the worker processes. It does not import the server."""

import logging
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from musix_runtime import settings
from musix_runtime.atomic import writing
from musix_runtime.cli.sockets import bind, show_address
from musix_runtime.cli.supervisor import call_in_child, supervise

logger = logging.getLogger(__name__)


def serve(
    path: Path, trust: Path | None, host: str, port: int, workers: int | None, access_log: bool, snapshot: bool
) -> None:
    """Serve the bundle or registry at `path` until a signal stops it; with `snapshot`, a private copy of it.

    `workers` None takes `WEB_CONCURRENCY`. Raises InputError, StoreError, BundleError or OutputError when
    `path` cannot be served, WorkerError when workers end as soon as they start.
    """
    count = settings.worker_count(workers)
    signal.signal(signal.SIGTERM, _leave)  # exits, so that the temporary folders are removed
    with ExitStack() as stack:
        sockets = bind(host, port)
        if snapshot:
            folder = Path(stack.enter_context(_temporary_folder("snapshot")))
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


def _temporary_folder(use: str) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix=f"musix-{use}-")


@contextmanager
def _metrics_folder() -> Iterator[Path | None]:
    """Make the folder in which the workers add up their metrics; None where nothing can be written."""
    try:
        folder = _temporary_folder("metrics")
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
