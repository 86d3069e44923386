"""A model registry: a folder of published bundles, with a pointer to the live version of each name.

    STORE/NAME/VERSION    a bundle, never changed
    STORE/NAME/live       versions, one per line: the live one, then those before it, newest first

The pointer is replaced by a rename, so readers need no lock; a lock lets one writer in at a time.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from musix_runtime import golden
from musix_runtime.atomic import check_writable, lock, new_path, remove, write_file, writing
from musix_runtime.bundle.archive import read_small
from musix_runtime.bundle.manifest import MANIFEST, NAME, VERSION
from musix_runtime.bundle.reader import Bundle
from musix_runtime.engine import Engine
from musix_runtime.errors import BundleError, ManifestError, StoreError, VersionError

LIVE = "live"
LOCK = ".lock"
POINTER_LIMIT = 2**20  # bytes


@dataclass(frozen=True)
class Registry:
    """The registry in the folder `path`. `opener` opens and verifies a bundle; one that it refuses is never live."""

    path: Path
    opener: Callable[[Path], Engine] = Engine.open

    def names(self) -> list[str]:
        """Names that have a live bundle, sorted."""
        return sorted(each.parent.name for each in self.path.glob(f"*/{LIVE}"))

    def history(self, name: str) -> list[str]:
        """The live version of `name`, then those that it replaced, newest first. Raises StoreError for no such name."""
        versions = self._read(name)
        if not versions:
            raise StoreError(f"{self.path}: expected {name!r} in this store, found {self.names() or 'nothing'}")
        return versions

    def live(self, name: str) -> Path:
        """The live bundle of `name`. Raises StoreError when there is none."""
        return self.path / name / self.history(name)[0]

    def open(self, name: str, version: str) -> Engine:
        """Open a published bundle. Raises BundleError when it is broken, or another than its place says."""
        path = self.path / name / version
        engine = self.opener(path)
        found = engine.bundle.manifest
        if (found.name, found.version) != (name, version):
            raise ManifestError(f"{path}: expected {name} {version}, found {found.name} {found.version}")
        return engine

    def open_path(self, path: Path) -> Engine:
        """Open the published bundle at `path`, which is `self.path / name / version`: see `open`."""
        return self.open(path.parent.name, path.name)

    def publish(self, bundle: str | Path) -> Path:
        """Copy a bundle into the store, verify the copy with all golden cases, and make it live: whole or not at all.

        Raises BundleError for a bundle that cannot be served, VersionError for a version lower than the live one or
        taken by other content, OutputError when the store cannot be written.
        """
        opened = self.opener(Path(bundle)).bundle
        name, version = opened.manifest.name, opened.manifest.version
        with self._writing(name) as folder:
            history = self._read(name)
            if history and _number(version) < _number(history[0]):
                raise VersionError(
                    f"{folder}: expected {history[0]}, which is live, or later, found {version}; "
                    "to go back on purpose there is: musix rollback"
                )
            target = folder / version
            if not os.path.lexists(target):
                self._add(opened, target)
            elif (taken := self.open(name, version).bundle.digest) != opened.digest:
                raise VersionError(f"{target}: expected digest {taken}, published already, found {opened.digest}")
            _point(folder, [version, *(each for each in history if each != version)])
        return target

    def rollback(self, name: str) -> Path:
        """Make live what was live before. Raises StoreError when nothing was, BundleError when that one is broken."""
        self.history(name)
        with self._writing(name) as folder:
            live, *earlier = self.history(name)
            if not earlier:
                raise StoreError(f"{folder}: expected a version that was live before {live}, found none")
            self.open(name, earlier[0])
            _point(folder, earlier)
        return folder / earlier[0]

    def gc(self, name: str, keep: int = 1) -> list[Path]:
        """Remove every version but the live one and the `keep` that it replaced last; the paths of those removed.

        A server that still answers from one of them keeps it mapped until it swaps.
        """
        self.history(name)
        with self._writing(name) as folder:
            kept = self.history(name)[: keep + 1]
            _point(folder, kept)  # first: what is about to go must not be rolled back to
            removed = [each for each in folder.iterdir() if re.match(VERSION, each.name) and each.name not in kept]
            for each in removed:
                partial = _partial(each)
                each.rename(partial)
                remove(partial)
        return sorted(removed, key=lambda path: _number(path.name))

    def _folder(self, name: str) -> Path:
        if not re.match(NAME, name):
            raise StoreError(f"{self.path}: expected a bundle's name, of a-z, 0-9, _ and -, found {name!r}")
        return self.path / name

    def _read(self, name: str) -> list[str]:
        pointer = self._folder(name) / LIVE
        if not os.path.lexists(pointer):
            return []
        try:
            versions = read_small(pointer, POINTER_LIMIT).decode("utf-8", "replace").splitlines()
        except BundleError as error:
            raise StoreError(str(error)) from error
        wrong = [each for each in versions if not re.match(VERSION, each)]
        if wrong or not versions:
            raise StoreError(f"{pointer}: expected versions, one a line, found {wrong[0] if wrong else 'none'!r}")
        return versions

    def _add(self, bundle: Bundle, target: Path) -> None:
        """Write what was verified, not what the files hold by now; verify that, too; then give it its name."""
        with new_path(target) as partial:
            bundle.copy(partial)
            engine = self.opener(partial)
            golden.replay(engine, engine.golden())
            _seal(partial)
        _sync(target.parent)

    @contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """The folder of `name`, for one writer at a time; what a killed one left half-done is removed."""
        folder = self._folder(name)
        check_writable(folder)
        with writing(folder), lock(folder / LOCK, wait=True):
            for each in (*folder.glob(".*.partial"), *folder.glob(".*.lock")):
                remove(each)
            _sync(self.path)
            try:
                yield folder
            finally:
                self._remove_if_unused(folder)

    def _remove_if_unused(self, folder: Path) -> None:
        """Remove a folder, and a store, that hold nothing because their first `publish` failed."""
        if [each.name for each in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()
            with suppress(OSError):  # other names are in it
                self.path.rmdir()


def find(path: Path, opener: Callable[[Path], Engine] = Engine.open) -> tuple[Registry, str] | None:
    """Return the registry and name at `path`: STORE/NAME, or a STORE with one name; None if it is no registry.

    Raises StoreError for a registry of several names.
    """
    path = path.resolve()
    if os.path.lexists(path / LIVE):
        return Registry(path.parent, opener), path.name
    registry = Registry(path, opener)
    names = [] if (path / MANIFEST).exists() else registry.names()
    if len(names) > 1:
        raise StoreError(f"{path}: expected a store of one name, or STORE/NAME, found the names {', '.join(names)}")
    return (registry, names[0]) if names else None


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _point(folder: Path, versions: list[str]) -> None:
    write_file(folder / LIVE, "".join(f"{each}\n" for each in versions).encode())
    _sync(folder)


def _seal(path: Path) -> None:
    """Make a bundle read-only and see it to the disk: what is served is mapped, and must not be written over."""
    for each in (*path.rglob("*"), path):
        each.chmod(0o555 if each.is_dir() else 0o444)
        _sync(each)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
