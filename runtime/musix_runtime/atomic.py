"""Atomic writes: a file or folder appears under its name as a whole, or not at all. All output is written like this.

While NAME is written, `.NAME.partial` beside it has the new content, and the writer locks `.NAME.lock`. A folder that
is replaced is renamed to `.NAME.old` until the new one has its name. The next writer cleans up after a killed one.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from musix_runtime.errors import BusyError, OutputError

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where only one process may write at a time
    fcntl = None  # type: ignore[assignment]

# Flags for files that other users may have created: do not follow links, do not wait for pipes. Windows has none.
PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)

SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # numpy's OSError for a full disk, without a number


def check_free(path: Path, advice: str = "choose another name, or remove it") -> None:
    """Raise OutputError with `advice` when `path` exists, even as a dangling link, or its folder cannot be written."""
    if os.path.lexists(path):
        raise OutputError(f"{path}: expected a free name, found an existing file or folder; {advice}")
    check_writable(path.parent)


def check_file(path: Path) -> None:
    """Raise OutputError unless a file can be written to `path`, where it may replace another one."""
    check_named(path)
    if path.is_dir():
        raise OutputError(f"{path}: expected a file to write, found a folder")
    check_writable(path.parent)


def check_named(path: Path) -> None:
    """Raise OutputError for a path that ends without a name, such as `.` or `/`."""
    if path.name in ("", ".."):
        raise OutputError(f"{path}: expected the name of a file or folder to write, found none")


def check_writable(folder: Path) -> None:
    """Make `folder` unless it exists. Raises OutputError when it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"{folder}: expected a folder to write into, found a file or a broken link") from error
    except OSError as error:
        raise OutputError(f"{folder}: expected a folder to write into, found: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder}: expected a folder to write into, found one that is read-only")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an OSError, such as a full disk or a missing permission, to an OutputError for `path`."""
    try:
        yield
    except OSError as error:
        found = "No space left on device" if SHORT_WRITE.fullmatch(str(error)) else error.strerror or error
        raise OutputError(f"{path}: expected a place to write to, found: {found}") from error


@contextmanager
def lock(file: Path, wait: bool) -> Iterator[None]:
    """Hold an exclusive lock on `file`. The system releases it when the process ends in any way.

    Raises BusyError when another process holds it and `wait` is False. A link at `file` is not followed.
    """
    if fcntl is None:
        yield
        return
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | PLAIN, 0o666)
        try:
            _flock(descriptor, file, wait)
            if _is_same_file(descriptor, file):  # else the previous holder has removed the file
                yield
                return
        finally:
            os.close(descriptor)


@contextmanager
def sole_writer(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock of the writers of `path`. While another process holds it, wait, or raise BusyError."""
    file = _hidden(path, "lock")
    with lock(file, wait):
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


@contextmanager
def new_path(path: Path, replace: bool = False, beside: Path | None = None) -> Iterator[Path]:
    """Yield a free name beside `path` for a new file or folder, which is renamed to `path` at the end.

    After an error it is removed. With `replace` it replaces a file or folder of the same kind. The hidden names are
    made from `beside` when the folder of `path` must have no other files. Raises OutputError when `path` exists, cannot
    be written, or is being written by another process.
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
    """Yield a new folder, which becomes `path` at the end: see `new_path`."""
    if replace and os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
        raise OutputError(f"{path}: expected a folder to replace, found another kind of file")
    with new_path(path, replace) as partial:
        partial.mkdir()
        yield partial


def write_file(path: Path, content: bytes, replace: bool = True, mode: int = 0o666, beside: Path | None = None) -> None:
    """Write the file `path` as a whole, and flush it to the disk: see `new_path`."""
    with new_path(path, replace, beside) as partial, create(partial, mode) as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def remove_leftovers(folder: Path, names: re.Pattern[str]) -> None:
    """Remove what killed writers left beside files and folders of `folder` with such names. Raises OutputError."""
    for partial in folder.glob(".*.partial"):
        path = partial.with_name(partial.name[1:].removesuffix(".partial"))
        if names.fullmatch(path.name):
            with suppress(BusyError), writing(path), sole_writer(path):
                _recover(path, _hidden(path, "old"))
                remove(partial)


def flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create(path: Path, mode: int = 0o666) -> BinaryIO:
    """Open a new file for writing. Raises OSError when `path` exists, also as a link."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | PLAIN, mode), "wb")


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with its content, if it exists. Folders may be read-only."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    folders = [path]
    for folder in folders:  # grows
        folder.chmod(0o700)
        with os.scandir(folder) as entries:
            folders += [Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False)]
    for folder in reversed(folders):  # the deepest first: a recursion has a limit of depth
        shutil.rmtree(folder)


def _hidden(path: Path, suffix: str) -> Path:
    check_named(path)
    return path.with_name(f".{path.name}.{suffix}")


def _flock(descriptor: int, file: Path, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise BusyError(f"{file}: expected no other writer, found one; wait until it has finished") from error


def _is_same_file(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.lstat())
    except FileNotFoundError:
        return False


def _recover(path: Path, old: Path) -> None:
    """Rename the old folder back if the new one does not exist, else remove it."""
    if not os.path.lexists(old):
        return
    if os.path.lexists(path):
        remove(old)
    else:
        old.rename(path)


def _check_kind(path: Path, partial: Path) -> None:
    """Raise OutputError unless `path` and its replacement are both plain files or both folders."""
    found, kind = path.lstat().st_mode, stat.S_IFMT(partial.lstat().st_mode)
    if stat.S_IFMT(found) != kind:
        wanted = "folder" if kind == stat.S_IFDIR else "plain file"
        raise OutputError(f"{path}: expected a free name or a {wanted} to replace, found another kind of file")
