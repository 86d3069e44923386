"""The command `musix serve`: the parent of the worker processes. It does not import the server.

It raises InputError, StoreError, BundleError or OutputError when the path cannot be served, and WorkerError when
workers end as soon as they start.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from musix_runtime import settings
from musix_runtime.atomic import writing
from musix_runtime.cli.arguments import TRUST
from musix_runtime.cli.output import print_status
from musix_runtime.cli.sockets import bind, format_address
from musix_runtime.cli.supervisor import call_in_child, supervise
from musix_runtime.cli.temporary import temporary_folder
from musix_runtime.errors import InputError, OutputError

logger = logging.getLogger(__name__)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port; 0 takes a free one.",
)
@click.option("--workers", type=int, help="Number of worker processes, 1 to 256.  [default: $WEB_CONCURRENCY, else 1]")
@click.option("--access-log", is_flag=True, help="Print one line of JSON for every request.")
@click.option(
    "--snapshot", is_flag=True, help="Serve a private copy in the temporary folder, so that PATH may be overwritten."
)
@click.option(
    "--feedback",
    metavar="URL",
    help="Database for lists and events: sqlite:///FILE or postgresql+psycopg://...  [default: $MUSIX_FEEDBACK]",
)
@TRUST
def serve(
    path: Path,
    host: str,
    port: int,
    workers: int | None,
    trust: Path | None,
    access_log: bool,
    snapshot: bool,
    feedback: str | None,
) -> None:
    """Serve a bundle or registry over HTTP.

    PATH is a bundle, or REGISTRY/NAME for the live bundle of a registry (REGISTRY if it has only one name).
    """
    if feedback == "":
        raise InputError("--feedback: expected a URL, found an empty text")
    count = settings.worker_count(workers)
    with ExitStack() as stack:
        sockets = bind(host, port)
        if snapshot:
            folder = stack.enter_context(temporary_folder("snapshot"))
            call_in_child(lambda: _copy(path, trust, folder))
            (path,) = folder.iterdir()
        if count > 1 and (metrics := stack.enter_context(_metrics_folder())):
            settings.share_metrics(metrics)
        announce = _once(lambda: _print_addresses(path, sockets))
        supervise(lambda: _run(path, trust, sockets, access_log, feedback, announce), count)


def _once(action: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls `action` in the first process that calls it: the one that reads the only byte."""
    reader, writer = os.pipe()
    os.write(writer, b"1")
    os.close(writer)

    def call() -> None:
        if os.read(reader, 1):
            action()

    return call


def _print_addresses(path: Path, sockets: list[Any]) -> None:
    for opened in sockets:
        address = format_address(*opened.getsockname()[:2])
        print_status(f"{path}: on http://{address} (press CTRL+C to stop)")


def _run(
    path: Path,
    trust: Path | None,
    sockets: list[Any],
    access_log: bool,
    feedback: str | None,
    announce: Callable[[], None],
) -> None:
    from musix_runtime.serving import server

    server.run(path, trust, sockets, access_log, feedback, announce)


def _copy(path: Path, trust: Path | None, folder: Path) -> None:
    from musix_runtime.models.parts import open_bundle
    from musix_runtime.registry import registry

    if registry.find(path):
        raise InputError(f"{path}: expected a bundle to copy, found a registry, whose versions are never overwritten")
    bundle = open_bundle(path, trust)
    copy = folder / bundle.name
    with writing(copy):
        bundle.copy(copy)


@contextmanager
def _metrics_folder() -> Iterator[Path | None]:
    """Make the folder in which the workers share their metrics. Yields None where nothing can be written."""
    with ExitStack() as stack:
        folder = None
        try:
            folder = stack.enter_context(temporary_folder("metrics"))
        except (OutputError, OSError) as error:
            logger.warning(
                "/metrics counts only the requests of the worker that answers: %s; mount one and name it in TMPDIR to "
                "count the requests of all workers",
                error,
            )
        yield folder
