"""The two shapes in which a bundle keeps text, searched and read in place: sorted keys and packed strings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime import kernels

Floats = NDArray[np.float32]
Scores = NDArray[np.float64]
Rows = NDArray[np.int64]
ABSENT = -1
FEW = 16  # keys that are faster found one by one


@dataclass(frozen=True)
class Keys:
    """Sorted UTF-8 keys of fixed width, dtype `S<width>`; looked up by binary search, never as a dict."""

    sorted: NDArray[np.bytes_]

    def find(self, keys: Sequence[str]) -> Rows:
        """Position of each key, ABSENT where there is none. Shape (len(keys),)."""
        if len(keys) <= FEW:
            return np.array([self.find_one(key) for key in keys], np.int64)
        if not len(self.sorted):
            return np.full(len(keys), ABSENT, np.int64)
        width = self.sorted.dtype.itemsize
        encoded = [key.encode("utf-8", "surrogatepass") for key in keys]
        # A longer key cannot be there, and would be cut to one that may be; NUL pads, so no key has one.
        if max(map(len, encoded)) > width:
            encoded = [key if len(key) <= width else b"" for key in encoded]
        if b"\0" in b"".join(encoded):
            encoded = [key if b"\0" not in key else b"" for key in encoded]
        wanted = np.array(encoded, self.sorted.dtype)
        places = np.empty(len(wanted), np.int64)
        order = np.argsort(wanted)  # one after the other, they lie near each other in memory
        places[order] = np.searchsorted(self.sorted, wanted[order])
        near = np.minimum(places, len(self.sorted) - 1)
        return np.where((self.sorted[near] == wanted) & (wanted != b""), near, ABSENT)

    def find_one(self, key: str) -> int:
        """Position of one key, ABSENT when there is none."""
        return kernels.find(self.sorted, key)

    def take(self, rows: Rows) -> list[str]:
        """The keys at some positions."""
        return kernels.keys_at(self.sorted, rows)


@dataclass(frozen=True)
class Strings:
    """Strings packed end to end: UTF-8 `data` (uint8) cut at `offsets` (int64, one more than there are strings)."""

    offsets: NDArray[np.int64]
    data: NDArray[np.uint8]

    def __getitem__(self, row: int) -> str:
        start, stop = self.offsets[row : row + 2]
        return self.data[start:stop].tobytes().decode()

    def take(self, rows: Rows) -> list[str]:
        """The strings of some rows."""
        return kernels.texts(self.data, self.offsets, rows)

    @staticmethod
    def pack(strings: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Offsets and data of the given strings."""
        encoded = [string.encode() for string in strings]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(each) for each in encoded], out=offsets[1:])
        return offsets, np.frombuffer(b"".join(encoded), np.uint8)


def unit(vectors: NDArray[Any]) -> Floats:
    """Rows scaled to length 1; a row of zeros stays as it is. Shape kept."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1), np.float32)
