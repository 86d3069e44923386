"""New folders, whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from musix_runtime.errors import OutputError


def check_free(path: Path) -> None:
    """Raise OutputError when something stands at `path`."""
    if path.exists():
        raise OutputError(f"{path}: expected a free name, found something there already")


@contextmanager
def new_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Give a folder to fill, under a hidden name beside `path`; it gets its name at the end, and is gone on an error.

    Raises OutputError when `path` is taken and shall not be replaced, or cannot be written.
    """
    if not replace:
        check_free(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"{path.parent}: expected a folder to write into, found: {error.strerror}") from error
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
