"""Checks of the values of arrays, so that no lookup is out of bounds and no response is malformed."""

from codecs import getincrementaldecoder
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.bundle.part_files import PartFiles
from musix_runtime.errors import LayoutError

MAX_FACTOR = 1e6
CHUNK_BYTES = 2**22  # checked at once, so that a mapped array is not copied as a whole


class Checks(PartFiles):
    """Checks of the arrays of one part, by their names in `array`. All raise LayoutError."""

    def error(self, name: str, expected: str, found: object) -> LayoutError:
        """Return an error with the place of an array."""
        return LayoutError(f"{self.bundle.path}: {self.part}/{name}: expected {expected}, found {found}")

    def sorted_keys(self, name: str) -> None:
        """Check that keys are valid, unique and sorted."""
        self.keys(name)
        self.ascending(name)

    def ascending(self, name: str) -> None:
        """Check that the values are strictly ascending."""
        for chunk in chunks(self.array(name), overlap=1):
            wrong = np.flatnonzero(chunk[:-1] >= chunk[1:])
            if len(wrong):
                raise self.error(name, "ascending values", f"{chunk[wrong[0]]!r} before {chunk[wrong[0] + 1]!r}")

    def keys(self, name: str) -> None:
        """Check that keys are UTF-8, not empty and without NUL."""
        for chunk in chunks(self.array(name)):
            letters = chunk.view(np.uint8).reshape(len(chunk), -1)
            if not letters[:, 0].all() or ((letters[:, :-1] == 0) & (letters[:, 1:] != 0)).any():
                raise self.error(name, "keys that are not empty and have no NUL", "others")
            inside = np.flatnonzero(letters[:, 0] & 0xC0 == 0x80)  # keys that begin inside a character
            wrong = int(inside[0]) if len(inside) else _first_not_utf8(letters)
            if wrong is not None:
                raise self.error(name, "keys in UTF-8", f"{chunk[wrong][:100]!r}")

    def within(self, name: str, low: float, high: float) -> None:
        """Check that all values are in the closed range, and none is NaN."""
        array = self.array(name)
        if array.size:
            smallest, largest = array.min(), array.max()  # NaN when any value is NaN
            if not (smallest >= low and largest <= high):
                raise self.error(name, f"values in {low}..{high}", f"{smallest}..{largest}")

    def factors(self, *names: str) -> None:
        """Check that values are finite, with absolute values up to `MAX_FACTOR`."""
        for name in names:
            self.within(name, -MAX_FACTOR, MAX_FACTOR)

    def rows(self, name: str, count: str) -> None:
        """Check that the values are row numbers below the manifest's `count`."""
        self.within(name, 0, self.manifest.size(count) - 1)

    def offsets(self, name: str, end: int, longest: int | None = None) -> None:
        """Check that offsets ascend from 0 to `end`, in steps of at most `longest`."""
        array = self.array(name)
        if array[0] != 0 or array[-1] != end:
            raise self.error(name, f"values from 0 to {end:,}", f"{array[0]} to {array[-1]}")
        for chunk in chunks(array, overlap=1):
            lengths = np.diff(chunk)
            if len(lengths) and lengths.min() < 0:
                raise self.error(name, "ascending values", "others")
            if len(lengths) and longest is not None and lengths.max() > longest:
                raise self.error(name, f"steps of at most {longest:,}", f"{lengths.max():,}")

    def text(self, offsets: str, data: str) -> None:
        """Check that `data` is UTF-8, and that the offsets are between its characters."""
        content = self.array(data)
        decoder, start = getincrementaldecoder("utf-8")(), 0
        for chunk in chunks(content):
            try:
                decoder.decode(chunk.tobytes(), final=start + len(chunk) == len(content))
            except UnicodeDecodeError as error:
                raise self.error(data, "UTF-8", f"other bytes after byte {start:,}") from error
            start += len(chunk)
        for chunk in chunks(self.array(offsets)[:-1]):
            starts = chunk[chunk < len(content)]
            if (content[starts] & 0xC0 == 0x80).any():
                raise self.error(offsets, "offsets between characters", "one inside a character")

    def unit_vectors(self, name: str) -> None:
        """Check that the length of each row is 1 within 1e-3."""
        for chunk in chunks(self.array(name)):
            lengths = np.linalg.norm(chunk, axis=1)
            if not (np.abs(lengths - 1) < 1e-3).all():
                raise self.error(name, "vectors of length 1", f"lengths {lengths.min()}..{lengths.max()}")


def _first_not_utf8(letters: NDArray[np.uint8]) -> int | None:
    """Return the first of the rows that is not UTF-8, as long as none begins inside a character; None if all are."""
    try:
        letters.tobytes().decode()
    except UnicodeDecodeError as error:
        return error.start // letters.shape[1]
    return None


def chunks(array: NDArray[Any], overlap: int = 0) -> Iterator[NDArray[Any]]:
    """Yield slices of `CHUNK_BYTES`, each with the first `overlap` rows of the next slice."""
    rows = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        yield array[start : start + rows + overlap]
