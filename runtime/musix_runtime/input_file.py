"""Reads a small file that a user names, without waiting for a pipe or filling the memory from a device."""

import os
import re
import stat
from functools import partial
from itertools import islice
from pathlib import Path

from musix_runtime.errors import InputError

MAX_BYTES = 2**20
BLOCK = 2**16
SHELL_FILE = re.compile(r"/dev/(?:stdin|fd/([0-9]{1,9}))")  # a file that is open already, also a pipe: `<(...)` in bash


def read_input(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Return the content of a plain file, or of `/dev/stdin` or `/dev/fd/N`. Links are followed.

    Raises InputError, which does not name `path`, for another kind of file, or more bytes than `limit`.
    """
    opened = SHELL_FILE.fullmatch(str(path))
    try:
        if opened:
            descriptor = os.dup(int(opened[1] or 0))
        else:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if opened:
                blocks = iter(partial(file.read, BLOCK), b"")
                content = b"".join(islice(blocks, limit // BLOCK + 1))
            elif not stat.S_ISREG(status.st_mode):
                raise InputError("a pipe or device, not a plain file")
            else:
                content = file.read(min(status.st_size, limit) + 1)  # which takes the memory at once
                if status.st_size < len(content) <= limit:
                    raise InputError("a file that grows while it is read")
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        raise InputError(str(getattr(error, "strerror", None) or error)) from error
    if len(content) > limit:
        raise InputError(f"more than {limit:,} bytes")
    return content
