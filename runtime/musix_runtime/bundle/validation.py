"""What the arrays of a bundle must say, beyond dtype and shape, so that no answer can go wrong or out of bounds."""

from codecs import getincrementaldecoder
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.bundle.manifest import INDEXES, MAX_HISTORY
from musix_runtime.errors import LayoutError
from musix_runtime.models.features import INPUTS
from musix_runtime.models.mood import MOODS

if TYPE_CHECKING:
    from musix_runtime.bundle.reader import Bundle

LARGEST = 1e6  # of a factor
CHUNK_BYTES = 2**22  # looked at together, so that checking a mapped array needs no copy of it


def check(bundle: "Bundle") -> None:
    """Check the content of every array and of the index. Raises LayoutError that names file, expected and found."""
    checks = _Checks(bundle)
    tracks, listeners = bundle.manifest.size("tracks"), bundle.manifest.size("listeners")
    for name in ("catalog/ids", "catalog/track_ids", "genre/artists", "genre/grams", "collab/listeners"):
        checks.keys(name)
        checks.sorted(name)
    checks.range("catalog/id_rows", 0, tracks - 1)
    checks.own_ids(tracks)
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
    checks.offsets("collab/history_offsets", bundle.manifest.size("plays"), MAX_HISTORY)
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
        for part in _chunks(array, overlap=1):
            wrong = np.flatnonzero(part[:-1] >= part[1:])
            if len(wrong):
                raise self.fail(name, "ascending values", f"{part[wrong[0]]!r} before {part[wrong[0] + 1]!r}")

    def keys(self, name: str) -> None:
        """Text in UTF-8, not empty, without NUL."""
        array = self.array(name)
        for part in _chunks(array):
            letters = part.view(np.uint8).reshape(len(part), -1)
            if not letters[:, 0].all() or ((letters[:, :-1] == 0) & (letters[:, 1:] != 0)).any():
                raise self.fail(name, "keys that are not empty and have no NUL", "others")
            for key in part[letters.max(axis=1) > 0x7F].tolist():
                try:
                    key.decode()
                except UnicodeDecodeError as error:
                    raise self.fail(name, "keys in UTF-8", f"{key[:100]!r}") from error

    def own_ids(self, tracks: int) -> None:
        """Every recording is found by the id that it is answered by. Ids and recordings are in the same order."""
        ids, rows, own = (self.array(f"catalog/{name}") for name in ("ids", "id_rows", "track_ids"))
        found, start = 0, 0
        for part in _chunks(ids):
            of_part = rows[start : start + len(part)]
            named = of_part[part == own[of_part]]
            if not np.array_equal(named, np.arange(found, found + len(named))):
                raise self.fail("catalog/id_rows", "the row of each track's own id", "another")
            found, start = found + len(named), start + len(part)
        if found != tracks:
            raise self.fail("catalog/ids", "every id of catalog/track_ids", "fewer")

    def range(self, name: str, low: float, high: float) -> None:
        array = self.array(name)
        if array.size:
            smallest, largest = array.min(), array.max()  # NaN, when there is one
            if not (smallest >= low and largest <= high):
                raise self.fail(name, f"values in {low}..{high}", f"{smallest}..{largest}")

    def inputs(self, name: str) -> None:
        """Each input in its range, or NaN."""
        array = self.array(name)
        smallest, largest = (find.reduce(array, axis=0) for find in (np.fmin, np.fmax))
        for feature, low, high in zip(INPUTS, smallest.tolist(), largest.tolist(), strict=True):
            if low < feature.low or high > feature.high:
                raise self.fail(name, f"{feature.name} in {feature.low:g}..{feature.high:g}", f"{low:g}..{high:g}")

    def offsets(self, name: str, end: int, longest: int | None = None) -> None:
        array = self.array(name)
        if array[0] != 0 or array[-1] != end:
            raise self.fail(name, f"values from 0 to {end:,}", f"{array[0]} to {array[-1]}")
        for part in _chunks(array, overlap=1):
            lengths = np.diff(part)
            if len(lengths) and lengths.min() < 0:
                raise self.fail(name, "ascending values", "others")
            if len(lengths) and longest is not None and lengths.max() > longest:
                raise self.fail(name, f"at most {longest:,} entries each", f"{lengths.max():,}")

    def text(self, offsets: str, data: str) -> None:
        """Whole UTF-8, cut between characters only."""
        content = self.array(data)
        decoder, start = getincrementaldecoder("utf-8")(), 0
        for part in _chunks(content):
            try:
                decoder.decode(part.tobytes(), final=start + len(part) == len(content))
            except UnicodeDecodeError as error:
                raise self.fail(data, "UTF-8", f"a byte that is not, from byte {start:,} on") from error
            start += len(part)
        for part in _chunks(self.array(offsets)[:-1]):
            starts = part[part < len(content)]
            if (content[starts] & 0xC0 == 0x80).any():
                raise self.fail(offsets, "cuts between characters", "one inside a character")

    def recent(self) -> None:
        recent = self.array("collab/history_recent")
        lengths = np.diff(self.array("collab/history_offsets"))
        if (recent < 0).any() or (recent[:, 0] > recent[:, 1]).any() or (recent[:, 1] > lengths).any():
            raise self.fail("collab/history_recent", "short term <= medium term <= history", "others")

    def units(self, name: str) -> None:
        array = self.array(name)
        for part in _chunks(array):
            lengths = np.linalg.norm(part, axis=1)
            if not (np.abs(lengths - 1) < 1e-3).all():
                raise self.fail(name, "vectors of length 1", f"lengths {lengths.min()}..{lengths.max()}")


def _chunks(array: NDArray[Any], overlap: int = 0) -> Iterator[NDArray[Any]]:
    """Parts of a few MB, each with the first `overlap` rows of the next one."""
    rows = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        yield array[start : start + rows + overlap]
