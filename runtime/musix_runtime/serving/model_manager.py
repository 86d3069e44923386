"""Live: the engine that answers now, and how it follows what becomes of its files, or the live bundle of a store.

A bundle's files are mapped. Whoever writes into them changes what the engine reads, so they are watched: once they have
changed, nothing is answered until a bundle was opened anew, with every check.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec

from musix_runtime.bundle.archive import Stamp, stamp
from musix_runtime.engine import Engine
from musix_runtime.errors import BundleError, MusixError, NotReadyError
from musix_runtime.registry import registry as stores
from musix_runtime.registry.registry import Store

logger = logging.getLogger(__name__)
CHANGED = (
    "the files of the bundle: expected nobody to write to them, found them changed; nothing is answered until they are"
    " a good bundle again"
)
Opener = Callable[[Path], Engine]


class Failure(msgspec.Struct, frozen=True):
    """Why the bundle that should answer does not, and its version (the name of its file or folder outside of a store);
    no version when a store's pointer cannot be read."""

    version: str | None
    error: str
    kind: str  # the class of the error


_Refused = dict[Path, tuple[Stamp, Failure]]  # bundles that were refused, with the files that they had then


class Live:
    """The engine that answers now: of a bundle, reopened when its files have changed, or of a store's live bundle.

    A request takes `engine` once and holds on to it: an engine that was replaced closes with its last request.
    """

    def __init__(self, engine: Engine, store: Store | None = None, opener: Opener | None = None) -> None:
        self.latest = engine  # which answers, or did until its files changed
        self.store = store
        self.failed: Failure | None = None
        self.unready: str | None = None  # why nothing may answer now
        self._path = engine.bundle.path.absolute()
        self._open = opener or partial(Engine.open, trust=engine.bundle.trust)
        self._refused: _Refused = {}
        self._turn = threading.Lock()

    @classmethod
    def open(cls, path: Path, opener: Opener = Engine.open) -> "Live":
        """Open a bundle, the only name of a store, or STORE/NAME; there, the last good one when the live one is broken.

        Raises StoreError or BundleError when there is nothing to serve.
        """
        found = stores.find(path, opener)
        if found is None:
            return cls(opener(path), opener=opener)
        store, name = found
        refused: _Refused = {}
        versions = [store.path / name / version for version in store.history(name)]
        engine = _first_good(versions, store.open_path, refused)
        if engine is None:
            tried = ", ".join(each.name for each in versions)
            raise BundleError(f"{store.path / name}: expected a good bundle among {tried}, found none")
        live = cls(engine, store, store.open_path)
        live._refused, live.failed = refused, _failure(versions, refused)
        return live

    @property
    def engine(self) -> Engine:
        """The engine that answers now. Raises NotReadyError when its files have changed, and none is good yet."""
        if self.unready:
            raise NotReadyError(self.unready)
        return self.latest

    def check(self, again: bool = False) -> None:
        """Take the bundle that should answer, if it is another one or its files have changed; say in `failed` why not.

        While the files of the engine are as they were, it goes on whatever happens. A bundle that was refused is opened
        again only when its files have changed, or with `again`.
        """
        with self._turn:
            try:
                self._take(again)
            except Exception as error:  # whatever it is, an engine whose files did not change is still good
                before, self.failed = self.failed, Failure(None, str(error), type(error).__name__)
                if self.failed != before:
                    unexpected = None if isinstance(error, MusixError) else error
                    logger.error("%s cannot be followed: %s", self._path, error, exc_info=unexpected)

    def _take(self, again: bool) -> None:
        changed = bool(self.unready) or self._files_changed()
        if changed and not self.unready:
            self.unready = CHANGED
            logger.error("%s: %s", self._path, CHANGED)
        wanted = self._wanted()
        if not changed and self._path in wanted:
            wanted = wanted[: wanted.index(self._path)]
        engine = _first_good(wanted, self._open, self._refused, again)
        if engine is not None:
            self.latest, self._path = engine, engine.bundle.path.absolute()
            self.unready = None
            logger.info("%s %s is live", engine.bundle.manifest.name, engine.bundle.manifest.version)
        self.failed = _failure(wanted, self._refused)

    def _files_changed(self) -> bool:
        bundle = self.latest.bundle
        return stamp(self._path, bundle.layout.files) != bundle.stamp

    def _wanted(self) -> list[Path]:
        """The bundles that may answer, the best first: the one that there is, or those of a store that were live."""
        if self.store is None:
            return [self._path]
        name = self.latest.bundle.manifest.name
        return [self.store.path / name / version for version in self.store.history(name)]

    def rollback(self) -> None:
        """Move the store's pointer back by one, and take that bundle. Raises StoreError, OutputError or BundleError."""
        if self.store is not None:
            self.store.rollback(self.latest.bundle.manifest.name)
            self.check()

    @contextmanager
    def following(self, seconds: float) -> Iterator[None]:
        """Check every `seconds` in a thread of its own, until left."""
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


def _first_good(paths: Sequence[Path], opener: Opener, refused: _Refused, again: bool = False) -> Engine | None:
    """Open the first bundle that is good. One that is not is noted, logged, and passed over until its files change."""
    for path in paths:
        files = stamp(path)
        if not again and path in refused and refused[path][0] == files:
            continue
        try:
            engine = opener(path)
        except BundleError as error:
            failure = Failure(path.name, str(error), type(error).__name__)
            if path not in refused or refused[path][1] != failure:
                logger.error("%s %s is refused: %s", path.parent.name, path.name, failure.error)
            refused[path] = files, failure
        else:
            refused.pop(path, None)
            return engine
    return None


def _failure(paths: Sequence[Path], refused: _Refused) -> Failure | None:
    """Why the best of some bundles was refused; None when it was not."""
    return refused[paths[0]][1] if paths and paths[0] in refused else None
