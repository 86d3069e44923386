"""Snapshot: a private copy of a bundle, to serve what others may write over."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from musix_runtime import store
from musix_runtime.bundle import Bundle
from musix_runtime.errors import InputError
from musix_runtime.folder import writing


@contextmanager
def private_copy(path: Path, trust: Path | None = None) -> Iterator[Path]:
    """Copy the bundle at `path` to a temporary folder of its own, which is removed at the end, on SIGTERM as well.

    Raises BundleError for what cannot be served, InputError for a store, OutputError when there is no room.
    """
    if store.find(path):
        raise InputError(f"{path}: expected a bundle to copy, found a store, whose versions are never written over")
    bundle = Bundle.open(path, trust)
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        with TemporaryDirectory(prefix="musix-snapshot-") as folder:
            copy = Path(folder) / bundle.name
            with writing(copy):
                bundle.copy(copy)
            del bundle  # which would keep mapped what may be written over
            yield copy
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
