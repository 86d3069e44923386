"""Temporary folders of a server: removed at its end, or, after it was killed, by the next server.

A folder is `musix-PURPOSE-RANDOM` in the temporary folder of the system. It has the file `lock`, which the server and
its workers keep locked while they run, and the folder `files`.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from musix_runtime.atomic import PLAIN, remove
from musix_runtime.errors import OutputError

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where the folders of killed servers stay
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"
FILES = "files"


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """Yield a new folder, which is removed at the end, after removing those of killed servers.

    Raises OutputError when it cannot be made.
    """
    prefix = f"musix-{purpose}-"
    try:
        _remove_abandoned(prefix)
        folder = Path(tempfile.mkdtemp(prefix=prefix))
    except OSError as error:
        place = error.filename or "TMPDIR"
        raise OutputError(f"{place}: expected a folder to write to, found: {error.strerror or error}") from error
    try:
        with _locked(folder):
            (folder / FILES).mkdir()
            yield folder / FILES
    finally:
        remove(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a new folder, in this process and those that it forks."""
    if fcntl is None:
        yield
        return
    new = folder / f"{LOCK}.new"
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | PLAIN, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        new.rename(folder / LOCK)  # only now, so that a file of this name is locked from its beginning
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(prefix: str) -> None:
    """Remove the folders of this user whose lock nobody holds."""
    if fcntl is None:
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # of another user, in use, or removed by another process at this moment
            status = folder.lstat()
            if status.st_uid != os.geteuid() or folder.is_symlink():
                continue
            descriptor = os.open(folder / LOCK, os.O_RDWR | PLAIN)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(folder)
            finally:
                os.close(descriptor)
