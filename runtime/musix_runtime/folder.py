"""New folders, whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from musix_runtime.errors import OutputError


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


def write_file(path: Path, content: bytes) -> None:
    """Write a file in place of what was there; whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


@contextmanager
def new_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Give a folder to fill, under a hidden name beside `path`; it gets its name at the end, and is gone on an error.

    Raises OutputError when `path` is taken and shall not be replaced, or cannot be written.
    """
    if not (replace and path.is_dir() and not path.is_symlink()):
        check_free(path)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
