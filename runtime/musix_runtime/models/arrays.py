"""The shapes in which a bundle keeps text, read in place: sorted keys and packed strings; and rows of a batch."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        wanted = key.encode("utf-8", "surrogatepass")
        place = bisect_left(self.sorted, wanted)
        return place if wanted and place < len(self.sorted) and self.sorted[place] == wanted else ABSENT

    def take(self, rows: Rows) -> list[str]:
        """The keys at some positions; a position beyond the ends is the end."""
        return [key.decode() for key in self.sorted.take(rows, mode="clip").tolist()]


@dataclass(frozen=True)
class Strings:
    """Strings packed end to end: UTF-8 `data` (uint8) cut at `offsets` (int64, one more than there are strings)."""

    offsets: NDArray[np.int64]
    data: NDArray[np.uint8]

    def __getitem__(self, row: int) -> str:
        start, stop = self.offsets[row : row + 2]
        return self.data[start:stop].tobytes().decode()

    def take(self, rows: Rows) -> list[str]:
        """The strings of some rows; a row beyond the ends is the end."""
        starts, data = np.minimum(np.maximum(rows, 0), len(self.offsets) - 2), self._bytes
        stops = self.offsets.take(starts + 1, mode="clip").tolist()
        starts = self.offsets.take(starts, mode="clip").tolist()
        return [str(data[start:stop], "utf-8") for start, stop in zip(starts, stops, strict=True)]

    @cached_property
    def _bytes(self) -> memoryview:
        return memoryview(self.data)  # type: ignore[arg-type]

    @staticmethod
    def pack(strings: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Offsets and data of the given strings."""
        encoded = [string.encode() for string in strings]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(each) for each in encoded], out=offsets[1:])
        return offsets, np.frombuffer(b"".join(encoded), np.uint8)


@dataclass(frozen=True)
class RaggedRows:
    """Rows of each request of a batch, end to end: `values` (n,), and how many are of each, `sizes` (batch,)."""

    values: Rows
    sizes: Rows

    @classmethod
    def of(cls, parts: Sequence[Rows]) -> "RaggedRows":
        """The rows of each request."""
        values = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return cls(values, np.array([len(part) for part in parts], np.int64))

    def sums(self, vectors: NDArray[Any]) -> Floats:
        """The sum of each request's `vectors` (n, width), added up row by row: it is the same in any batch. Zeros for
        a request without rows. Shape (batch, width)."""
        some, starts = self._starts
        if len(some) == len(self.sizes):
            return np.add.reduceat(vectors, starts, axis=0, dtype=np.float32)
        found = np.zeros((len(self.sizes), vectors.shape[1]), np.float32)
        if len(some):
            found[some] = np.add.reduceat(vectors, starts, axis=0, dtype=np.float32)
        return found

    @cached_property
    def _starts(self) -> tuple[Rows, Rows]:
        """Which requests have rows, and where these start."""
        (some,) = self.sizes.nonzero()
        return some, (self.sizes.cumsum() - self.sizes)[some]


def gather(array: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    """The rows of a mapped array, those beyond its ends being its ends: whatever its bytes become, nothing is read
    outside. Zeros when it has no rows. Shape (*rows.shape, *array.shape[1:])."""
    if not len(array):
        return np.zeros((*rows.shape, *array.shape[1:]), array.dtype)
    return array.take(rows, axis=0, mode="clip")


def unit(vectors: NDArray[Any]) -> Floats:
    """Rows scaled to length 1; a row of zeros stays as it is. Shape kept."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1), np.float32)
