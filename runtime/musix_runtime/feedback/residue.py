"""Looks for bytes in a file: a program of its own, which ends with 0 if the file does not have them, 3 if it has.

    python residue.py FILE < BYTES

A process that closes a file of SQLite which it has opened beside SQLite loses SQLite's locks, so this must be another
one. The bytes come by the standard input, as other users of a machine can read arguments.
"""

import sys
from pathlib import Path
from typing import BinaryIO

PART_BYTES = 2**22
FOUND = 3  # exit code; Python itself has 1 and 2


def holds(file: BinaryIO, wanted: bytes) -> bool:
    """Return whether a file has the bytes, which are not empty."""
    end = b""
    while part := file.read(PART_BYTES):
        if wanted in end + part:
            return True
        end = (end + part)[-len(wanted) + 1 :] if len(wanted) > 1 else b""
    return False


if __name__ == "__main__":
    with Path(sys.argv[1]).open("rb") as opened:
        sys.exit(FOUND if holds(opened, sys.stdin.buffer.read()) else 0)
