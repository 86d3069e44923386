"""Hot reload: the engine that serves now, replaced when its files change or a registry has another live bundle.

The files of a bundle are mapped, so writing to them changes what the engine reads. They are watched: after a change no
request is answered until a bundle was opened again with every check.
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
from musix_runtime.registry import registry as registries
from musix_runtime.registry.registry import Registry

logger = logging.getLogger(__name__)
CHANGED = (
    "the files of the bundle: expected nobody to write to them, found them changed; nothing is answered until they are"
    " a good bundle again"
)
Opener = Callable[[Path], Engine]


class LoadError(msgspec.Struct, frozen=True):
    """Why a bundle is not served. `version` is the name of its file or folder when there is no registry, and None when
    the registry's live pointer cannot be read."""

    version: str | None
    message: str
    kind: str  # the class of the error


_Refused = dict[Path, tuple[Stamp, LoadError]]  # bundles that were refused, with the state of their files


class ModelManager:
    """The engine that serves now: of one bundle, reopened when its files change, or of a registry's live bundle.

    A request reads `engine` once and keeps it: a replaced engine is closed when its last request ends.
    """

    def __init__(self, engine: Engine, registry: Registry | None = None, opener: Opener | None = None) -> None:
        self.latest = engine  # serves now, or did until its files changed
        self.registry = registry
        self.last_error: LoadError | None = None
        self.unready: str | None = None  # why no request is answered now
        self._path = engine.bundle.path.absolute()
        self._open = opener or partial(Engine.open, trust=engine.bundle.trust)
        self._refused: _Refused = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path, opener: Opener = Engine.open) -> "ModelManager":
        """Open a bundle, or the live bundle of a registry; if that is broken, the latest good one before it.

        Raises StoreError or BundleError when there is nothing to serve.
        """
        found = registries.find(path, opener)
        if found is None:
            return cls(opener(path), opener=opener)
        registry, name = found
        refused: _Refused = {}
        versions = [registry.path / name / version for version in registry.history(name)]
        engine = _first_good(versions, registry.open_path, refused)
        if engine is None:
            names = ", ".join(version.name for version in versions)
            raise BundleError(f"{registry.path / name}: expected a good bundle among {names}, found none")
        manager = cls(engine, registry, registry.open_path)
        manager._refused, manager.last_error = refused, _error(versions, refused)
        return manager

    @property
    def engine(self) -> Engine:
        """The engine that serves now. Raises NotReadyError when its files have changed and are not good yet."""
        if self.unready:
            raise NotReadyError(self.unready)
        return self.latest

    def refresh(self, force: bool = False) -> None:
        """Open the bundle that should be served, if it is another one or its files have changed.

        `last_error` says why it was refused. The engine serves on, whatever happens, while its own files are unchanged.
        A bundle that was refused is opened again only when its files have changed, or with `force`.
        """
        with self._lock:
            try:
                self._open_wanted(force)
            except Exception as error:  # of any kind: an engine whose files did not change is still good
                before, self.last_error = self.last_error, LoadError(None, str(error), type(error).__name__)
                if self.last_error != before:
                    unexpected = None if isinstance(error, MusixError) else error
                    logger.error("%s cannot be polled: %s", self._path, error, exc_info=unexpected)

    def _open_wanted(self, force: bool) -> None:
        changed = bool(self.unready) or self._files_changed()
        if changed and not self.unready:
            self.unready = CHANGED
            logger.error("%s: %s", self._path, CHANGED)
        wanted = self._wanted()
        if not changed and self._path in wanted:
            wanted = wanted[: wanted.index(self._path)]
        engine = _first_good(wanted, self._open, self._refused, force)
        if engine is not None:
            self.latest, self._path = engine, engine.bundle.path.absolute()
            self.unready = None
            logger.info("%s %s is live", engine.bundle.manifest.name, engine.bundle.manifest.version)
        self.last_error = _error(wanted, self._refused)

    def _files_changed(self) -> bool:
        bundle = self.latest.bundle
        return stamp(self._path, bundle.layout.files) != bundle.stamp

    def _wanted(self) -> list[Path]:
        """Return the bundles that may be served, best first: the only one, or all that were live."""
        if self.registry is None:
            return [self._path]
        name = self.latest.bundle.manifest.name
        return [self.registry.path / name / version for version in self.registry.history(name)]

    def rollback(self) -> None:
        """Move the registry's live pointer back by one version and open that bundle.

        Raises StoreError, OutputError or BundleError.
        """
        if self.registry is not None:
            self.registry.rollback(self.latest.bundle.manifest.name)
            self.refresh()

    @contextmanager
    def polling(self, interval_s: float) -> Iterator[None]:
        """Call `refresh` every `interval_s` seconds in a thread, until the context ends."""
        stop = threading.Event()
        thread = threading.Thread(target=self._poll, args=(stop, interval_s), name="musix-polling", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _poll(self, stop: threading.Event, interval_s: float) -> None:
        while not stop.wait(interval_s):
            self.refresh()


def _first_good(paths: Sequence[Path], opener: Opener, refused: _Refused, force: bool = False) -> Engine | None:
    """Open the first good bundle. A broken one is remembered and logged, and skipped until its files change."""
    for path in paths:
        files = stamp(path)
        if not force and path in refused and refused[path][0] == files:
            continue
        try:
            engine = opener(path)
        except BundleError as error:
            refusal = LoadError(path.name, str(error), type(error).__name__)
            if path not in refused or refused[path][1] != refusal:
                logger.error("%s %s is refused: %s", path.parent.name, path.name, refusal.message)
            refused[path] = files, refusal
        else:
            refused.pop(path, None)
            return engine
    return None


def _error(paths: Sequence[Path], refused: _Refused) -> LoadError | None:
    """Return why the first of some bundles was refused; None when it was not."""
    return refused[paths[0]][1] if paths and paths[0] in refused else None
