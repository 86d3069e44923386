"""A model registry: a folder of published bundles, with a pointer to the live version of each name.

    REGISTRY/NAME/VERSION    a bundle, which is never changed
    REGISTRY/NAME/live       versions, one per line: the live one, then the earlier live versions, newest first
    REGISTRY/NAME/experiments    see `experiments.py`

The pointer is replaced by a rename, so readers need no lock. Writers hold an exclusive lock.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from musix_runtime import golden
from musix_runtime.atomic import check_writable, flush, lock, new_path, remove, write_file, writing
from musix_runtime.bundle.archive import read_small
from musix_runtime.bundle.manifest import MANIFEST, NAME, VERSION
from musix_runtime.bundle.reader import Bundle
from musix_runtime.engine import Engine
from musix_runtime.errors import BundleError, ManifestError, SignatureError, StoreError, VersionError, refusing, shorten
from musix_runtime.registry import experiments, rollouts, shadows

LIVE = "live"
LOCK = ".lock"
MAX_POINTER_BYTES = 2**20


@dataclass(frozen=True)
class Registry:
    """The registry in the folder `path`. `opener` opens and verifies bundles; those that it refuses are never live."""

    path: Path
    opener: Callable[[Path], Engine] = Engine.open

    def names(self) -> list[str]:
        """Return the names that have a live bundle, sorted."""
        folders = self.path.iterdir() if self.path.is_dir() else ()
        return sorted(each.name for each in folders if re.match(NAME, each.name) and os.path.lexists(each / LIVE))

    def folder(self, name: str) -> Path:
        """Return the folder of `name`, which may not exist. Raises StoreError for text that is no name."""
        if not re.match(NAME, name):
            raise StoreError(f"{self.path}: expected a name of a-z, 0-9, _ and -, found {name!r}")
        return self.path / name

    def history(self, name: str) -> list[str]:
        """Return the live version of `name`, then the earlier ones, newest first. Raises StoreError without any."""
        versions = self._read(name)
        if not versions:
            raise self._unknown(name)
        return versions

    def _unknown(self, name: str) -> StoreError:
        names = self.names()
        if names:
            return StoreError(f"{self.path}: expected one of the names {', '.join(names)}, found {name!r}")
        return StoreError(
            f"{self.path}: expected a registry with the name {name!r}, found no published bundle; check the path, or "
            "use: musix publish"
        )

    def versions(self, name: str) -> list[str]:
        """Return all published versions of `name`, lowest first. Raises StoreError when it has no live bundle."""
        self.history(name)
        paths = (self.path / name).iterdir()
        return sorted((path.name for path in paths if re.match(VERSION, path.name)), key=_version_key)

    def live(self, name: str) -> Path:
        """Return the path of the live bundle of `name`. Raises StoreError when there is none."""
        return self.path / name / self.history(name)[0]

    def open(self, name: str, version: str) -> Engine:
        """Return the engine of a published bundle. Raises BundleError for a broken one, or another name or version."""
        path = self.path / name / version
        engine = self.opener(path)
        manifest = engine.bundle.manifest
        if (manifest.name, manifest.version) != (name, version):
            raise ManifestError(f"{path}: expected {name} {version}, found {manifest.name} {manifest.version}")
        return engine

    def open_path(self, path: Path) -> Engine:
        """Return the engine of the published bundle at `path`, which is `self.path / name / version`: see `open`."""
        return self.open(path.parent.name, path.name)

    def publish(self, bundle: str | Path, candidate: bool = False) -> Path:
        """Copy a bundle into the registry, verify the copy with all golden cases, and make it live; or not yet, as a
        candidate for an experiment or a rollout.

        Returns the path of the copy. After an error the registry is unchanged. Raises BundleError for a bundle that
        cannot be served, VersionError for a version that is lower than the live one or exists with other content,
        StoreError for a candidate without a live version, and for another live version while an experiment or a rollout
        compares versions, OutputError when the registry cannot be written or is in the bundle.
        """
        opened = self.opener(Path(bundle)).bundle
        opened.check_outside(self.path)
        name, version = opened.manifest.name, opened.manifest.version
        with self.writing(name) if candidate else self.settled(name) as folder:
            history = self._read(name)
            if candidate and not history:
                raise StoreError(f"{folder}: expected a live version beside a candidate, found none")
            if history and _version_key(version) < _version_key(history[0]):
                raise VersionError(
                    f"{folder}: expected at least the live version {history[0]}, found {version}; "
                    f"to return to an earlier version, use: {self.command('rollback', name)}"
                )
            if not candidate and version not in history[:1]:
                experiments.check_none_compares_versions(self, name)
            target = folder / version
            if not os.path.lexists(target):
                self._add(opened, target)
            else:
                self._check_published(opened, target)
            if not candidate:
                self.make_live(folder, version)
        return target

    def command(self, command: str, name: str) -> str:
        """Return a command about `name` as a line for the shell, such as `musix rollback REGISTRY NAME`."""
        return f"musix {command} {shlex.join([str(self.path), name])}"

    def check_published(self, name: str, version: str) -> None:
        """Raise StoreError unless the version is published, BundleError if it is broken."""
        if not re.match(VERSION, version):
            raise StoreError(f"{self.folder(name)}: expected a version such as 1.2.0, found {shorten(version)!r}")
        if not os.path.lexists(self.folder(name) / version):
            raise StoreError(
                f"{self.folder(name)}: expected a published version, found {version}, which is missing; publish it "
                f"with: musix publish BUNDLE {shlex.quote(str(self.path))} --candidate"
            )
        self.open(name, version)

    def make_live(self, folder: Path, version: str) -> None:
        """Make a published version live. `folder` is that of its name, which `writing` locked."""
        _write_pointer(folder, [version, *(earlier for earlier in self._read(folder.name) if earlier != version)])

    def _check_published(self, bundle: Bundle, target: Path) -> None:
        """Raise VersionError unless the published version has the content and the signature of `bundle`."""
        other_signature = VersionError(
            f"{target}: expected the signature of {bundle.path}, found another one or none; a published version is "
            "never changed: sign a bundle before its first publish, or publish it as a higher version"
        )
        try:
            published = self.open_path(target).bundle
        except SignatureError as error:
            raise other_signature from error
        if published.digest != bundle.digest:
            raise VersionError(
                f"{target}: expected the published content, digest {published.digest}, found {bundle.digest}; "
                "publish other content as a higher version"
            )
        if published.container.signature != bundle.container.signature:
            raise other_signature

    def rollback(self, name: str) -> Path:
        """Make the previous live version live again, and return its path.

        Raises StoreError when there is none and while an experiment or a rollout compares versions, which would go on
        to answer; BundleError when it is broken.
        """
        self.history(name)
        with self.settled(name) as folder:
            experiments.check_none_compares_versions(self, name)
            live, *earlier = self.history(name)
            if not earlier:
                raise StoreError(f"{folder}: expected a version that was live before {live}, found none")
            self.open(name, earlier[0])
            _write_pointer(folder, earlier)
        return folder / earlier[0]

    def gc(self, name: str, keep: int = 1) -> list[Path]:
        """Remove all versions, candidates too, except the live one, the `keep` versions that were live before it, and
        those of a running experiment, rollout and shadow.

        Returns the paths of the removed versions. A server that still answers from one of them keeps its files mapped.
        """
        self.history(name)
        with self.settled(name) as folder:
            kept = self.history(name)[: keep + 1]
            experiment, shadow = experiments.running(self, name), shadows.running(self, name)
            if not os.path.lexists(folder / kept[0]):
                raise StoreError(f"{folder / LIVE}: expected a published version, found {kept[0]}, which is missing")
            used = {*kept, *(experiment.versions if experiment else ()), *([shadow.version] if shadow else ())}
            removed = [path for path in folder.iterdir() if re.match(VERSION, path.name) and path.name not in used]
            for path in removed:
                partial = path.with_name(f".{path.name}.partial")
                path.rename(partial)
                remove(partial)
            _write_pointer(folder, kept)  # last: on a full disk there is no place for it before
        return sorted(removed, key=lambda path: _version_key(path.name))

    def _read(self, name: str) -> list[str]:
        pointer = self.folder(name) / LIVE
        if not os.path.lexists(pointer):
            return []
        try:
            versions = read_small(pointer, MAX_POINTER_BYTES).decode("utf-8", "replace").splitlines()
        except BundleError as error:
            raise StoreError(str(error)) from error
        invalid = [line for line in versions if not re.match(VERSION, line)]
        if invalid or not versions:
            raise StoreError(f"{pointer}: expected one version per line, found {invalid[0] if invalid else 'none'!r}")
        return versions

    def _add(self, bundle: Bundle, target: Path) -> None:
        """Write the verified bytes, which are mapped, to a new folder; verify the copy; then rename it to `target`."""
        with new_path(target) as partial:
            bundle.copy(partial)
            engine = self.opener(partial)
            golden.replay(engine, engine.golden())
            _seal(partial)
        flush(target.parent)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield the folder of `name` under its exclusive lock. Removes the unfinished files of a killed writer."""
        folder = self.folder(name)
        check_writable(folder)
        with writing(folder), lock(folder / LOCK, wait=True):
            for pattern in (".*.partial", ".*.lock", "*/.*.json.partial", "*/.*.json.lock"):
                for leftover in folder.glob(pattern):
                    remove(leftover)
            flush(self.path)
            try:
                yield folder
            finally:
                self._remove_if_unused(folder)

    @contextmanager
    def settled(self, name: str) -> Iterator[Path]:
        """Yield the folder of `name` as `writing` does, after finishing what a killed process began with a rollout."""
        with self.writing(name) as folder:
            rollouts.settle(self, folder)
            yield folder

    def _remove_if_unused(self, folder: Path) -> None:
        """Remove a folder, and a registry, that hold nothing because their first `publish` failed."""
        if [each.name for each in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()
            with suppress(OSError):  # other names are in it
                self.path.rmdir()


def find(path: Path, opener: Callable[[Path], Engine] = Engine.open) -> tuple[Registry, str] | None:
    """Return the registry and name at `path`, which is REGISTRY/NAME or a REGISTRY with one name; None for other paths.

    Raises StoreError for a registry of several names, BundleError for a path that the system refuses.
    """
    with refusing(path):
        path = Path(os.path.realpath(path))  # `resolve` has another error for links in a circle
        is_bundle = (path / MANIFEST).exists()
    if os.path.lexists(path / LIVE):
        return Registry(path.parent, opener), path.name
    registry = Registry(path, opener)
    names = [] if is_bundle else registry.names()
    if len(names) > 1:
        raise StoreError(
            f"{path}: expected REGISTRY/NAME, or a registry with one name, found the names {', '.join(names)}"
        )
    return (registry, names[0]) if names else None


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _write_pointer(folder: Path, versions: list[str]) -> None:
    write_file(folder / LIVE, "".join(f"{version}\n" for version in versions).encode())
    flush(folder)


def _seal(path: Path) -> None:
    """Make a bundle read-only, because servers map its files, and flush it to the disk."""
    for entry in (*path.rglob("*"), path):
        entry.chmod(0o555 if entry.is_dir() else 0o444)
        flush(entry)
