"""Atomic writes: a file or folder appears under its name whole, or not at all. All that musix writes is written so.

While NAME is written, `.NAME.partial` beside it holds the new content and the writer locks `.NAME.lock`. A folder that
is replaced is `.NAME.old` for the moment between two renames. The next writer puts right what a killed one left.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from musix_runtime.errors import OutputError

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where a bundle can be served, and written by one process at a time
    fcntl = None  # type: ignore[assignment]

# Flags to open what others may have put there: a link is not followed, a pipe is not waited for. Windows has none.
PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def check_free(path: Path) -> None:
    """Raise OutputError when something stands at `path`, even a dangling link, or its folder cannot be written."""
    if os.path.lexists(path):
        raise OutputError(f"{path}: expected a free name, found something there already")
    check_writable(path.parent)


def check_writable(folder: Path) -> None:
    """Make `folder`, if need be. Raises OutputError when it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: expected a folder to write into, found: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder}: expected a folder to write into, found one that is read-only")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says of a full disk, a missing right or the like into an OutputError that names `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: expected a place to write to, found: {error.strerror or error}") from error


@contextmanager
def lock(file: Path, wait: bool) -> Iterator[None]:
    """Hold the exclusive lock on `file`, which the system releases when the process ends, however it ends.

    Raises OutputError when another process holds it and `wait` is False. A link at `file` is not followed.
    """
    if fcntl is None:
        yield
        return
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | PLAIN, 0o666)
        try:
            _flock(descriptor, file, wait)
            if _is_still(descriptor, file):  # else the last holder has removed it meanwhile
                yield
                return
        finally:
            os.close(descriptor)


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Be the only process that writes `path`. Raises OutputError when another one does."""
    file = _hidden(path, "lock")
    with lock(file, wait=False):
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


@contextmanager
def new_path(path: Path, replace: bool = False, beside: Path | None = None) -> Iterator[Path]:
    """Give a free name beside `path` for a new file or folder. It is renamed to `path` at the end; gone on an error.

    With `replace` it takes the place of a file or folder of its own kind. The hidden names are made from `beside` when
    nothing else may be in the folder of `path`. Raises OutputError when `path` is taken, cannot be written, or is being
    written by another process.
    """
    beside = beside or path
    check_writable(beside.parent)
    partial, old = _hidden(beside, "partial"), _hidden(beside, "old")
    with writing(path), sole_writer(beside):
        _recover(path, old)
        remove(partial)
        if not replace:
            check_free(path)
        try:
            yield partial
            if os.path.lexists(path):
                _check_kind(path, partial)
            if partial.is_dir() and path.is_dir():
                path.rename(old)
            partial.replace(path)
        finally:
            _recover(path, old)
            remove(partial)


@contextmanager
def new_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Give a folder to fill, which becomes `path` as a whole: see `new_path`."""
    if replace and os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
        raise OutputError(f"{path}: expected a folder to replace, found something else")
    with new_path(path, replace) as partial:
        partial.mkdir()
        yield partial


def write_file(path: Path, content: bytes, replace: bool = True, mode: int = 0o666, beside: Path | None = None) -> None:
    """Write the file `path` as a whole, and see it to the disk: see `new_path`."""
    with new_path(path, replace, beside) as partial, create(partial, mode) as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def create(path: Path, mode: int = 0o666) -> BinaryIO:
    """Open a new file for writing. Raises OSError when anything is there, a link as well."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | PLAIN, mode), "wb")


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it, if it is there; read-only folders as well."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for base, _, _ in os.walk(path):
        Path(base).chmod(0o700)
    shutil.rmtree(path)


def _hidden(path: Path, use: str) -> Path:
    return path.with_name(f".{path.name}.{use}")


def _flock(descriptor: int, file: Path, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise OutputError(f"{file}: expected no other writer, found one at work; wait until it is done") from error


def _is_still(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.lstat())
    except FileNotFoundError:
        return False


def _recover(path: Path, old: Path) -> None:
    """Put the old folder back when the new one did not come in its place; remove it when it did."""
    if not os.path.lexists(old):
        return
    if os.path.lexists(path):
        remove(old)
    else:
        old.rename(path)


def _check_kind(path: Path, partial: Path) -> None:
    """Only a plain file takes the place of a plain file, a folder of a folder: no link, no device is replaced."""
    found, kind = path.lstat().st_mode, stat.S_IFMT(partial.lstat().st_mode)
    if stat.S_IFMT(found) != kind:
        wanted = "folder" if kind == stat.S_IFDIR else "plain file"
        raise OutputError(f"{path}: expected a free name or a {wanted} to replace, found something else")
