"""Hot reload: replaces the engine when its files change or the registry has another live bundle.

The files of a bundle are mapped, so writing to them changes the data of the engine. After that no request is answered
until a bundle has been opened again with all checks. Files that were replaced by a rename stay mapped as they were, and
their engine answers until the new ones are open.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from musix_runtime.background import background
from musix_runtime.bundle.archive import Stamp, overwritten, stamp
from musix_runtime.engine import POLICIES, Engine, apply_policy
from musix_runtime.errors import BundleError, MusixError, NotReadyError, StoreError
from musix_runtime.registry import experiments, shadows
from musix_runtime.registry import registry as registries
from musix_runtime.registry.experiments import EXTERNAL, Experiment
from musix_runtime.registry.registry import Registry
from musix_runtime.registry.shadows import Shadow
from musix_runtime.serving.traffic import ShadowTraffic, Traffic

logger = logging.getLogger(__name__)
CHANGED = (
    "the files of the bundle: expected no changes, found some; no request is answered until they are a valid bundle"
    " again"
)
Opener = Callable[[Path], Engine]
R = TypeVar("R", Experiment, Shadow)


class LoadError(msgspec.Struct, frozen=True):
    """The error of a bundle that is not served.

    `version` is the name of its file or folder when there is no registry, and None when the live pointer of the
    registry cannot be read.
    """

    version: str | None
    message: str
    kind: str  # the name of the error class


_Refused = dict[Path, tuple[Stamp | None, LoadError]]  # by path of the bundle


class ModelManager:
    """Holds the current engine: of one bundle, opened again when its files change, or of the live bundle of a registry.

    A request reads `engine` once and keeps it, so a replaced engine is closed after its last request.
    """

    def __init__(self, engine: Engine, registry: Registry | None = None, opener: Opener | None = None) -> None:
        self.latest = engine  # the current engine, also after its files have changed
        self.registry = registry
        self.last_error: LoadError | None = None
        self.unready: str | None = None  # the reason why no request is answered now
        self.refused = 0  # number of versions that should answer now
        self.published = 0  # number of versions in the registry
        self._path = engine.bundle.path.absolute()
        self._open = opener or partial(Engine.open, trust=engine.bundle.trust)
        self._refused: _Refused = {}
        self._lock = threading.Lock()
        self.traffic: Traffic | None = None  # of the running experiment
        self.shadow: ShadowTraffic | None = None
        self._variants: dict[str, Engine] = {}  # engines of the running experiment and shadow, by version or policy
        self._experiment: Experiment | None = None  # the running ones
        self._shadow: Shadow | None = None
        self._traffic_errors: dict[str, str] = {}  # by kind: experiment, shadow

    @classmethod
    def open(cls, path: str | Path, opener: Opener = Engine.open) -> "ModelManager":
        """Open a bundle, or the live bundle of a registry; if that is broken, the latest valid bundle before it.

        Raises StoreError or BundleError when there is nothing to serve.
        """
        path = Path(path)
        found = registries.find(path, opener)
        if found is None:
            return cls(opener(path), opener=opener)
        registry, name = found
        refused: _Refused = {}
        versions = [registry.path / name / version for version in registry.history(name)]
        engine = _open_first_valid(versions, registry.open_path, refused)
        if engine is None:
            names = ", ".join(version.name for version in versions)
            raise BundleError(f"{registry.path / name}: expected a valid bundle among {names}, found none")
        manager = cls(engine, registry, registry.open_path)
        manager._refused, manager.last_error = refused, _error(versions, refused)
        manager._update_traffic()
        manager._count_versions()
        return manager

    @property
    def engine(self) -> Engine:
        """The current engine. Raises NotReadyError when its files have changed and are not a valid bundle yet."""
        if self.unready:
            raise NotReadyError(self.unready)
        return self.latest

    def refresh(self, force: bool = False) -> None:
        """Open the bundles that should be served, if they are other ones or their files have changed.

        On an error, `last_error` is set, and the current engine is kept while its own files are unchanged. A bundle
        that was refused is opened again only when its files have changed, or with `force`.
        """
        with self._lock:
            try:
                self._open_preferred(force)
                self._update_traffic(force)
                self._count_versions()
            except Exception as error:  # of any kind: an engine whose files are unchanged is still valid
                before, self.last_error = self.last_error, LoadError(None, str(error), type(error).__name__)
                self.refused = max(self.refused, 1)
                if self.last_error != before:
                    unexpected = None if isinstance(error, MusixError) else error
                    logger.error("%s cannot be polled: %s", self._path, error, exc_info=unexpected)

    def _open_preferred(self, force: bool) -> None:
        bundle = self.latest.bundle
        now = stamp(self._path, bundle.layout.files)
        changed = bool(self.unready) or now != bundle.stamp
        if not self.unready and overwritten(bundle.stamp, now):
            self.unready = CHANGED
            logger.error("%s: %s", self._path, CHANGED)
        candidates = self._candidates()
        if not changed and self._path in candidates:
            candidates = candidates[: candidates.index(self._path)]
        engine = _open_first_valid(candidates, self._open_or_reuse, self._refused, force)
        if engine is not None:
            self.latest, self._path = engine, engine.bundle.path.absolute()
            self.unready = None
            logger.info("%s answers", engine.bundle.label)
        self.last_error = _error(candidates, self._refused)

    def _candidates(self) -> list[Path]:
        """Return the bundles that may be served, preferred first: the only one, or all that were live."""
        if self.registry is None:
            return [self._path]
        name = self.latest.bundle.manifest.name
        return [self.registry.path / name / version for version in self.registry.history(name)]

    def _update_traffic(self, force: bool = False) -> None:
        """Hold the engines of the running experiment and shadow, and close those of stopped ones after their last
        requests."""
        self._experiment = experiment = self._running("experiment", experiments.running, self._experiment)
        self._shadow = shadow = self._running("shadow", shadows.running, self._shadow)
        choices = [*(experiment.choices.values() if experiment else ()), *([shadow.version] if shadow else ())]
        self._variants = engines = {choice: self._variant_engine(choice, force) for choice in choices}
        self.traffic = self.shadow = None
        if experiment:
            variants = {variant: engines[choice] for variant, choice in experiment.choices.items()}
            self.traffic = Traffic(experiment, variants)
        if shadow and engines[shadow.version] is not self.latest:  # as it is while the version is live or broken
            self.shadow = ShadowTraffic(shadow, engines[shadow.version])

    def _count_versions(self) -> None:
        """Count the versions that should answer and were refused, and the published ones."""
        refused = {path.name for path in self._refused if path.name in self._variants}
        if self.last_error:
            refused.add(self.last_error.version or "")
        self.refused = len(refused)
        if self.registry is not None:
            self.published = len(self.registry.versions(self.latest.bundle.manifest.name))

    def _running(self, kind: str, read: Callable[[Registry, str], R | None], before: R | None) -> R | None:
        """Return the running experiment or shadow. While its file is broken, it is the one before; the error is logged
        once, as is a change."""
        if self.registry is None:
            return None
        name = self.latest.bundle.manifest.name
        try:
            running = read(self.registry, name)
        except StoreError as error:
            if str(error) != self._traffic_errors.get(kind):
                logger.error("the %s stays as it was: %s", kind, error)
            self._traffic_errors[kind] = str(error)
            return before
        self._traffic_errors.pop(kind, None)
        if running != before:
            logger.info("%s is running", running.title if running else f"no {kind}")
        return running

    def _variant_engine(self, choice: str, force: bool) -> Engine:
        """Return the engine of a version or policy. The live one answers for a host, and for a version that is broken.

        An engine that is already open is kept.
        """
        if self.registry is None or choice == EXTERNAL:
            return self.latest
        if choice in POLICIES:
            held = self._variants.get(choice)
            return held if held and held.bundle is self.latest.bundle else apply_policy(self.latest, choice)
        path = self.registry.path / self.latest.bundle.manifest.name / choice
        if path.absolute() == self._path:
            return self.latest
        return _open_first_valid([path], self._open_or_reuse, self._refused, force) or self.latest

    def _open_or_reuse(self, path: Path) -> Engine:
        """Return the engine of a bundle: that of a variant if its files are unchanged. Raises BundleError."""
        engine = self._variants.get(path.name)
        if engine and engine.bundle.path == path and stamp(path, engine.bundle.layout.files) == engine.bundle.stamp:
            return engine
        return self._open(path)

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

        def poll(stop: threading.Event) -> None:
            while not stop.wait(interval_s):
                self.refresh()

        with background("musix-polling", poll):
            yield


def _open_first_valid(paths: Sequence[Path], opener: Opener, refused: _Refused, force: bool = False) -> Engine | None:
    """Return the engine of the first valid bundle, or None. A broken one is logged once, until its files change."""
    for path in paths:
        files = _files(path)
        if not force and path in refused and refused[path][0] == files:
            continue
        try:
            engine = opener(path)
        except BundleError as error:
            refusal = LoadError(path.name, str(error), type(error).__name__)
            if path not in refused or refused[path][1] != refusal:
                logger.error("%s/%s is refused: %s", path.parent.name, path.name, refusal.message)
            refused[path] = files, refusal
        else:
            refused.pop(path, None)
            return engine
    return None


def _files(path: Path) -> Stamp | None:
    """Return the stamp of all files of a bundle, None while they cannot be listed, whatever the reason: opening the
    bundle says what is wrong."""
    try:
        return stamp(path)
    except Exception:
        return None


def _error(paths: Sequence[Path], refused: _Refused) -> LoadError | None:
    """Return the error of the first bundle, None if it was not refused."""
    return refused[paths[0]][1] if paths and paths[0] in refused else None
