"""Live: the engine that answers now, and how a server follows the live bundle of a store."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from musix_runtime import store as stores
from musix_runtime.engine import Engine
from musix_runtime.errors import BundleError, MusixError
from musix_runtime.store import Store

logger = logging.getLogger(__name__)


class Failure(msgspec.Struct, frozen=True):
    """Why the live bundle of the store is not the one that answers; no version when the pointer cannot be read."""

    version: str | None
    error: str
    kind: str  # the class of the error


class Live:
    """The engine that answers now: always the same, or the one that a store says.

    A request takes `engine` once and holds on to it: an engine that was replaced closes with its last request.
    """

    def __init__(self, engine: Engine, store: Store | None = None, failed: Failure | None = None) -> None:
        self.engine = engine
        self.store = store
        self.failed = failed
        self._broken = failed.version if failed else None  # a bundle never changes: opened again only when asked to
        self._turn = threading.Lock()

    @classmethod
    def open(cls, path: Path, opener: Callable[[Path], Engine] = Engine.open) -> "Live":
        """Open a bundle, the only name of a store, or STORE/NAME; there, the last good one when the live one is broken.

        Raises StoreError or BundleError when there is nothing to serve.
        """
        found = stores.find(path, opener)
        if found is None:
            return cls(opener(path))
        store, name = found
        failed = None
        for version in (history := store.history(name)):
            try:
                return cls(store.open(name, version), store, failed)
            except BundleError as error:
                _log(name, refused := Failure(version, str(error), type(error).__name__), error)
                failed = failed or refused
        raise BundleError(f"{store.path / name}: expected a good bundle among {', '.join(history)}, found none")

    def check(self, again: bool = False) -> None:
        """Take the store's live bundle if another one answers; on any failure keep that one, and say so in `failed`.

        A bundle that was broken is opened again only when the pointer has moved, or with `again`.
        """
        if self.store is None:
            return
        name, version = self.engine.bundle.manifest.name, None
        with self._turn:
            try:
                version = self.store.history(name)[0]
                if version == self._broken and not again:
                    return
                if version != self.engine.bundle.manifest.version:
                    self.engine = self.store.open(name, version)
                    logger.info("%s %s is live", name, version)
                self.failed = self._broken = None
            except Exception as error:  # whatever it is, the engine that answers now is still good
                self._broken = version if isinstance(error, BundleError) else None
                before, self.failed = self.failed, Failure(version, str(error), type(error).__name__)
                if self.failed != before:
                    _log(name, self.failed, error)

    def rollback(self) -> None:
        """Move the store's pointer back by one, and take that bundle. Raises StoreError, OutputError or BundleError."""
        if self.store is not None:
            self.store.rollback(self.engine.bundle.manifest.name)
            self.check()

    @contextmanager
    def following(self, seconds: float) -> Iterator[None]:
        """Check every `seconds` in a thread of its own, until left. Without a store there is nothing to follow."""
        if self.store is None:
            yield
            return
        stop = threading.Event()
        thread = threading.Thread(target=self._follow, args=(stop, seconds), name="musix-live", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _follow(self, stop: threading.Event, seconds: float) -> None:
        while not stop.wait(seconds):
            self.check()


def _log(name: str, failed: Failure, error: Exception) -> None:
    unexpected = None if isinstance(error, MusixError) else error
    where = f"{name} {failed.version or 'pointer'}"
    logger.error("%s is refused, the last good bundle answers: %s", where, failed.error, exc_info=unexpected)
