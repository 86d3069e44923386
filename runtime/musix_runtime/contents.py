"""What the arrays of a bundle must say, beyond dtype and shape, so that no answer can go wrong or out of bounds."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.errors import LayoutError
from musix_runtime.manifest import INDEXES
from musix_runtime.mood import MOODS

if TYPE_CHECKING:
    from musix_runtime.bundle import Bundle

LARGEST = 1e6  # of a factor
CHUNK = 65_536  # rows looked at together, so that checking a mapped array needs no copy of it


def check(bundle: "Bundle") -> None:
    """Check the content of every array and of the index. Raises LayoutError that names file, expected and found."""
    checks = _Checks(bundle)
    tracks, listeners = bundle.manifest.size("tracks"), bundle.manifest.size("listeners")
    for name in ("catalog/ids", "catalog/track_ids", "genre/artists", "genre/grams", "collab/listeners"):
        checks.sorted(name)
    checks.range("catalog/id_rows", 0, tracks - 1)
    checks.range("catalog/popular", 0, tracks - 1)
    checks.range("catalog/moods", 0, len(MOODS) - 1)
    checks.range("catalog/families", 0, 2 ** len(bundle.manifest.families) - 1)
    checks.range("catalog/freshness", 0, 1)
    checks.range("catalog/popularity", 0, 1)
    checks.inputs("catalog/inputs")
    for name in ("name", "artist"):
        checks.offsets(f"catalog/{name}_offsets", bundle.manifest.size(f"{name}_bytes"))
        checks.text(f"catalog/{name}_offsets", f"catalog/{name}_data")
    factors = ("listener_factors", "track_factors", "track_mean", "tastes", "fold_in")
    for name in ("genre/artist_factors", "genre/gram_weights", *(f"collab/{each}" for each in factors)):
        checks.range(name, -LARGEST, LARGEST)
    checks.range("collab/rows", 0, tracks - 1)
    checks.sorted("collab/rows")
    checks.range("collab/history_rows", 0, tracks - 1)
    checks.offsets("collab/history_offsets", bundle.manifest.size("plays"))
    if listeners:
        checks.recent()
    checks.units("content/vectors")
    for name in INDEXES:
        bundle.index(name)


class _Checks:
    def __init__(self, bundle: "Bundle") -> None:
        self.bundle = bundle

    def array(self, name: str) -> NDArray[Any]:
        return self.bundle.array(f"{name}.npy")

    def fail(self, name: str, expected: str, found: object) -> LayoutError:
        return LayoutError(f"{self.bundle.path}: {name}: expected {expected}, found {found}")

    def sorted(self, name: str) -> None:
        array = self.array(name)
        for start in range(0, len(array), CHUNK):
            part = array[start : start + CHUNK + 1]
            wrong = np.flatnonzero(part[:-1] >= part[1:])
            if len(wrong):
                raise self.fail(name, "ascending values", f"{part[wrong[0]]!r} before {part[wrong[0] + 1]!r}")

    def range(self, name: str, low: float, high: float) -> None:
        array = self.array(name)
        if array.size:
            smallest, largest = array.min(), array.max()  # NaN, when there is one
            if not (smallest >= low and largest <= high):
                raise self.fail(name, f"values in {low}..{high}", f"{smallest}..{largest}")

    def inputs(self, name: str) -> None:
        array = self.array(name)
        if np.isinf(np.fmin.reduce(array, axis=None)) or np.isinf(np.fmax.reduce(array, axis=None)):
            raise self.fail(name, "finite numbers or NaN", "an infinite one")

    def offsets(self, name: str, end: int) -> None:
        array = self.array(name)
        if array[0] != 0 or array[-1] != end or (np.diff(array) < 0).any():
            raise self.fail(name, f"ascending values from 0 to {end:,}", f"others, from {array[0]} to {array[-1]}")

    def text(self, offsets: str, data: str) -> None:
        """Whole UTF-8, cut between characters only."""
        content = self.array(data)
        starts = self.array(offsets)[:-1]
        starts = starts[starts < len(content)]
        try:
            content.tobytes().decode()
        except UnicodeDecodeError as error:
            raise self.fail(data, "UTF-8", f"byte {error.start:,} that is not") from error
        if (content[starts] & 0xC0 == 0x80).any():
            raise self.fail(offsets, "cuts between characters", "one inside a character")

    def recent(self) -> None:
        recent = self.array("collab/history_recent")
        lengths = np.diff(self.array("collab/history_offsets"))
        if (recent < 0).any() or (recent[:, 0] > recent[:, 1]).any() or (recent[:, 1] > lengths).any():
            raise self.fail("collab/history_recent", "short term <= medium term <= history", "others")

    def units(self, name: str) -> None:
        array = self.array(name)
        for start in range(0, len(array), CHUNK):
            lengths = np.linalg.norm(array[start : start + CHUNK], axis=1)
            if not (np.abs(lengths - 1) < 1e-3).all():
                raise self.fail(name, "vectors of length 1", f"lengths {lengths.min()}..{lengths.max()}")
