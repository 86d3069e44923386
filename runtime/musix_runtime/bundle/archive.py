"""The container of a bundle: its files as mapped bytes, from a folder or from one packed file.

A packed file has 8 bytes MAGIC; the lengths of the manifest and of the signature (0 without one), 8 bytes each, little
endian; the manifest; the signature; then the files that the manifest lists, in the order of their names. Each file,
and the end, is at the next multiple of 64; the bytes between are zeros. The offsets follow from the sizes in the
manifest.
"""

import mmap
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musix_runtime.atomic import PLAIN, create
from musix_runtime.bundle.manifest import MANIFEST, MANIFEST_LIMIT, SIGNATURE, SIGNATURE_LIMIT, Manifest
from musix_runtime.errors import (
    BundleError,
    ExtraFileError,
    FileKindError,
    ManifestError,
    MissingFileError,
    SizeError,
    shorten,
)

View = NDArray[np.uint8]
Stamp = tuple[tuple[int, ...] | None, ...]
MAGIC = b"MUSIX\r\n\x01"
ALIGNMENT = 64
HEAD = len(MAGIC) + 16


@dataclass(frozen=True)
class Container:
    """The bytes of a bundle. Manifest and signature are read; `views` maps the other files."""

    path: Path
    manifest: bytes
    signature: bytes
    packed: View | None  # the whole packed file, None for a folder

    @classmethod
    def open(cls, path: Path) -> "Container":
        """Return the container of a bundle folder or packed file. Raises BundleError."""
        if path.is_dir():
            signature = read_small(path / SIGNATURE, SIGNATURE_LIMIT) if os.path.lexists(path / SIGNATURE) else b""
            try:
                manifest = read_small(path / MANIFEST, MANIFEST_LIMIT)
            except MissingFileError as error:
                names = sorted(entry.name for entry in path.iterdir())
                found = f"a folder of {shorten(', '.join(names)) or 'nothing'}"
                if "run.json" in names:
                    found = "a run, of which musix export makes a bundle"
                raise MissingFileError(f"{path}: expected a bundle with {MANIFEST}, found {found}") from error
            return cls(path, manifest, signature, None)
        if not path.exists():
            raise BundleError(f"{path}: expected a bundle folder or file, found nothing")
        return cls._open_packed(path, _map(path, follow=True))

    @classmethod
    def _open_packed(cls, path: Path, packed: View) -> "Container":
        if packed[: len(MAGIC)].tobytes() != MAGIC or packed.size < HEAD:
            raise BundleError(f"{path}: expected a bundle folder or a packed bundle, found another file")
        manifest, signature = (int(length) for length in packed[len(MAGIC) : HEAD].view("<u8"))
        for name, length, limit in (("manifest", manifest, MANIFEST_LIMIT), ("signature", signature, SIGNATURE_LIMIT)):
            if length > limit:
                raise ManifestError(f"{path}: expected a {name} of at most {limit:,} bytes, found {length:,}")
        end = HEAD + manifest + signature
        if packed.size < end:
            raise SizeError(f"{path}: expected at least {end:,} bytes, found {packed.size:,}")
        return cls(path, packed[HEAD : HEAD + manifest].tobytes(), packed[HEAD + manifest : end].tobytes(), packed)

    def views(self, manifest: Manifest) -> dict[str, View]:
        """Map the files that the manifest lists. Raises BundleError for missing, extra or wrong-sized files."""
        return self._folder_views(manifest) if self.packed is None else self._packed_views(manifest, self.packed)

    def _folder_views(self, manifest: Manifest) -> dict[str, View]:
        _check_entries(self.path, set(manifest.files))
        views = {}
        for name, expected in manifest.files.items():
            view = views[name] = _map(self.path / name)
            if view.size != expected.bytes:
                raise SizeError(f"{self.path / name}: expected {expected.bytes:,} bytes, found {view.size:,}")
        return views

    def _packed_views(self, manifest: Manifest, packed: View) -> dict[str, View]:
        offsets = dict(_offsets(len(self.manifest) + len(self.signature), manifest))
        total = offsets.pop("")
        if packed.size != total:
            raise SizeError(f"{self.path}: expected {total:,} bytes, found {packed.size:,}")
        views, end = {}, HEAD + len(self.manifest) + len(self.signature)
        for name, start in [*offsets.items(), ("", total)]:
            if packed[end:start].any():
                raise BundleError(f"{self.path}: expected zeros in bytes {end:,} to {start:,}, found other values")
            if name:
                end = start + manifest.files[name].bytes
                views[name] = packed[start:end]
        return views


def stamp(path: Path, files: Iterable[str] | None = None) -> Stamp:
    """Return device, inode, size, and times of modification and change (ns) of each file of the bundle at `path`; None
    if missing. A program can set the time of modification, not that of change.

    `files` are names in a bundle folder, besides manifest and signature; by default all files of the folder. When the
    stamp has changed, the mapped bytes may have changed or be lost.
    """
    if not path.is_dir():
        return (_file_stamp(path),)
    if files is None:
        files = sorted(str(file.relative_to(path)) for file in path.rglob("*"))
    return tuple(_file_stamp(path / name) for name in (MANIFEST, SIGNATURE, *files))


def overwritten(before: Stamp, now: Stamp) -> bool:
    """Return whether a file was written to, so that its mapped bytes may have changed.

    A file that was removed, or replaced by a rename, keeps its mapped bytes.
    """
    pairs = zip(before, now, strict=False)  # a folder may have become a packed file
    return any(old != new and old is not None and new is not None and old[:2] == new[:2] for old, new in pairs)


def write_packed(container: Container, manifest: Manifest, views: dict[str, View], path: Path) -> None:
    """Write the bundle as the new file `path`. Raises OSError."""
    with create(path) as out:
        out.write(MAGIC + np.array([len(container.manifest), len(container.signature)], "<u8").tobytes())
        out.write(container.manifest + container.signature)
        for name, start in _offsets(len(container.manifest) + len(container.signature), manifest):
            out.write(bytes(start - out.tell()))
            if name:
                out.write(views[name].data)


def write_folder(container: Container, views: dict[str, View], path: Path) -> None:
    """Write the bundle as the new folder `path`. Raises OSError."""
    path.mkdir()
    (path / MANIFEST).write_bytes(container.manifest)
    if container.signature:
        (path / SIGNATURE).write_bytes(container.signature)
    for name, view in views.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(view.data)


def _offsets(head: int, manifest: Manifest) -> Iterator[tuple[str, int]]:
    """Yield the name and offset of each file in a packed bundle, and last the name "" with the offset of the end."""
    end = HEAD + head
    for name in [*sorted(manifest.files), ""]:
        start = -(-end // ALIGNMENT) * ALIGNMENT
        yield name, start
        end = start + (manifest.files[name].bytes if name else 0)


def _check_entries(path: Path, listed: set[str]) -> None:
    """Raise BundleError unless the folder has only listed files, and folders of listed files. Links are refused."""
    files = listed | {MANIFEST, SIGNATURE}
    folders = {parent.as_posix() for name in files for parent in Path(name).parents}
    for base, below, names in os.walk(path):
        for entry in (Path(base, name) for name in sorted(below + names)):
            name = entry.relative_to(path).as_posix()
            if entry.is_symlink():
                raise _link_error(entry)
            if name not in (folders if entry.is_dir() else files):
                raise ExtraFileError(
                    f"{entry}: expected only files that the manifest lists, found this one; remove it, or move the"
                    " bundle to a folder of its own, below the root of a volume or repository"
                )


def _link_error(file: Path) -> FileKindError:
    return FileKindError(
        f"{file}: expected a plain file or folder, found a link; copy the bundle with the targets of its links: cp -rL"
    )


def read_small(file: Path, limit: int) -> bytes:
    """Return the content of a plain file. Raises BundleError for another kind of file, or more than `limit` bytes."""
    with _opened(file) as (descriptor, size), os.fdopen(descriptor, "rb", closefd=False) as content:
        if size > limit:
            raise ManifestError(f"{file}: expected at most {limit:,} bytes, found {size:,}")
        return content.read(limit)


def _map(file: Path, follow: bool = False) -> View:
    with _opened(file, follow) as (descriptor, size):
        if not size:
            return np.empty(0, np.uint8)
        return np.frombuffer(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ), np.uint8)


@contextmanager
def _opened(file: Path, follow: bool = False) -> Iterator[tuple[int, int]]:
    """Yield descriptor and size of a plain file. Links are followed only with `follow`. A pipe does not block."""
    try:
        descriptor = os.open(file.resolve() if follow else file, os.O_RDONLY | PLAIN | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FileKindError(f"{file}: expected a plain file, found a folder, pipe or device")
            yield descriptor, status.st_size
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFileError(f"{file}: expected a file, found nothing") from error
    except (OSError, ValueError) as error:  # ValueError: the file was truncated before it was mapped
        if file.is_symlink() and not follow:
            raise _link_error(file) from error
        raise BundleError(f"{file}: expected a readable file, found: {error}") from error


def _file_stamp(file: Path) -> tuple[int, ...] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
