"""Data structures on mapped arrays: sorted keys, packed strings, and rows of the requests of a batch."""

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
SMALL_LOOKUP = 16  # keys that are looked up faster one by one


@dataclass(frozen=True)
class Keys:
    """Sorted UTF-8 keys of fixed width, dtype `S<width>`, with binary search in the mapped array."""

    sorted: NDArray[np.bytes_]

    def find(self, keys: Sequence[str]) -> Rows:
        """Return the position of each key, ABSENT for unknown keys. Shape (len(keys),)."""
        if len(keys) <= SMALL_LOOKUP:
            return np.array([self.find_one(key) for key in keys], np.int64)
        if not len(self.sorted):
            return np.full(len(keys), ABSENT, np.int64)
        width = self.sorted.dtype.itemsize
        encoded = [key.encode("utf-8", "surrogatepass") for key in keys]
        # numpy would truncate a longer key to one that may exist. NUL is the padding, so no key has it.
        if max(map(len, encoded)) > width:
            encoded = [key if len(key) <= width else b"" for key in encoded]
        if b"\0" in b"".join(encoded):
            encoded = [key if b"\0" not in key else b"" for key in encoded]
        queries = np.array(encoded, self.sorted.dtype)
        positions = np.empty(len(queries), np.int64)
        order = np.argsort(queries)  # consecutive searches then read memory that is near
        positions[order] = np.searchsorted(self.sorted, queries[order])
        positions = np.minimum(positions, len(self.sorted) - 1)
        return np.where((self.sorted[positions] == queries) & (queries != b""), positions, ABSENT)

    def find_one(self, key: str) -> int:
        """Return the position of one key, ABSENT for an unknown key."""
        query = key.encode("utf-8", "surrogatepass")
        position = bisect_left(self.sorted, query)
        return position if query and position < len(self.sorted) and self.sorted[position] == query else ABSENT

    def take(self, rows: Rows) -> list[str]:
        """Return the keys at these positions, which are clipped to the range of the array."""
        return [key.decode() for key in self.sorted.take(rows, mode="clip").tolist()]


@dataclass(frozen=True)
class Strings:
    """Concatenated strings: UTF-8 `data` (uint8), and the `offsets` (int64) of each string and of the end."""

    offsets: NDArray[np.int64]
    data: NDArray[np.uint8]

    def __getitem__(self, row: int) -> str:
        start, stop = self.offsets[row : row + 2]
        return self.data[start:stop].tobytes().decode()

    def take(self, rows: Rows) -> list[str]:
        """Return the strings of these rows, which are clipped to the range of the array."""
        starts, data = np.minimum(np.maximum(rows, 0), len(self.offsets) - 2), self._bytes
        stops = self.offsets.take(starts + 1, mode="clip").tolist()
        starts = self.offsets.take(starts, mode="clip").tolist()
        return [str(data[start:stop], "utf-8") for start, stop in zip(starts, stops, strict=True)]

    @cached_property
    def _bytes(self) -> memoryview:
        return self.data.data

    @staticmethod
    def pack(strings: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return the offsets and data of strings."""
        encoded = [string.encode() for string in strings]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(text) for text in encoded], out=offsets[1:])
        return offsets, np.frombuffer(b"".join(encoded), np.uint8)


@dataclass(frozen=True)
class RaggedRows:
    """Concatenated rows of the requests of a batch: `values` (n,), and the number of rows of each, `sizes` (batch,)."""

    values: Rows
    sizes: Rows

    @classmethod
    def of(cls, parts: Sequence[Rows]) -> "RaggedRows":
        """Return the concatenated rows of all requests."""
        values = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return cls(values, np.array([len(part) for part in parts], np.int64))

    def with_rows(self, rows: Rows, times: int) -> "RaggedRows":
        """Return the rows of each request, with its row of `rows` (batch,) added several times unless it is ABSENT."""
        added = np.where(rows != ABSENT, times, 0)
        if not added.any():
            return self
        stops = self.sizes.cumsum().repeat(added)
        return RaggedRows(np.insert(self.values, stops, rows.repeat(added)), self.sizes + added)

    def present(self) -> "RaggedRows":
        """Return the rows of each request without ABSENT ones."""
        (kept,) = np.nonzero(self.values != ABSENT)
        requests = np.arange(len(self.sizes)).repeat(self.sizes)[kept]
        return RaggedRows(self.values[kept], np.bincount(requests, minlength=len(self.sizes)))

    def sums(self, vectors: NDArray[Any]) -> Floats:
        """Return the sum of the `vectors` (n, width) of each request, zeros without rows. Shape (batch, width).

        The vectors are added one after the other, so the sum is the same in any batch.
        """
        requests, starts = self.starts
        if len(requests) == len(self.sizes):
            return np.add.reduceat(vectors, starts, axis=0, dtype=np.float32)
        sums = np.zeros((len(self.sizes), vectors.shape[1]), np.float32)
        if len(requests):
            sums[requests] = np.add.reduceat(vectors, starts, axis=0, dtype=np.float32)
        return sums

    @cached_property
    def starts(self) -> tuple[Rows, Rows]:
        """The requests that have rows, and the positions of their first rows."""
        (requests,) = self.sizes.nonzero()
        return requests, (self.sizes.cumsum() - self.sizes)[requests]


def gather(array: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    """Return the rows of a mapped array, zeros when it has none. Shape (*rows.shape, *array.shape[1:]).

    Row numbers are clipped to the range of the array, so nothing is read outside even when mapped bytes have changed.
    """
    if not len(array):
        return np.zeros((*rows.shape, *array.shape[1:]), array.dtype)
    return array.take(rows, axis=0, mode="clip")


def unit(vectors: NDArray[Any]) -> Floats:
    """Return the rows scaled to length 1; rows of zeros are unchanged. Same shape."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1), np.float32)
