"""Catalog: from track ids to rows and back, and the metadata of each track, read from mapped files on demand."""

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from musix_runtime.bundle.manifest import MAX_ROWS
from musix_runtime.bundle.part import Array, Part
from musix_runtime.bundle.part_files import PartFiles
from musix_runtime.bundle.validation import Checks, chunks
from musix_runtime.models.arrays import ABSENT, Floats, Keys, Rows, Strings, gather
from musix_runtime.models.features import INPUTS
from musix_runtime.models.mood import MOODS

SHARED = ("spotify:", "http", "HTTP", "open.", "play.")  # how a track that was shared, not named by its id, begins
_SHARED_TRACK = re.compile(
    r"(?:spotify:|(?:https?://)?(?:open|play)\.spotify\.com/)(?:intl-[a-z-]+/|embed/)*track[:/]([^/:?#\s]+)/?(?:[?#].*)?",
    re.ASCII | re.IGNORECASE | re.DOTALL,
)
CHUNK = 65_536  # ids compared together


def bare(track_id: str) -> str:
    """Return the id of a track that is given as an id, as `spotify:track:ID` or as a link to open.spotify.com, with or
    without a language and what follows a `?`. Any other text is an id as it stands."""
    if not track_id.startswith(SHARED):
        return track_id
    match = _SHARED_TRACK.fullmatch(track_id)
    return match[1] if match else track_id


@dataclass(frozen=True)
class Catalog:
    """One row for each recording, in the order of track ids; a recording may have several ids.

    `popular` are the rows of the most popular recordings, best first.
    """

    ids: Keys
    id_rows: NDArray[np.int32]
    track_ids: Keys
    names: Strings
    artists: Strings
    inputs: Floats
    families: NDArray[np.uint32]
    moods: NDArray[np.uint8]
    freshness: Floats
    popularity: Floats
    popular: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.track_ids.sorted)

    def rows(self, track_ids: Sequence[str]) -> Rows:
        """Row of each track id, ABSENT for ids that are not in the catalogue."""
        if not track_ids:
            return np.empty(0, np.int64)
        places = self.ids.find([bare(each) for each in track_ids])
        return np.where(places != ABSENT, self.id_rows[places], ABSENT).astype(np.int64)

    def row(self, track_id: str | None) -> int | None:
        """Row of one track id, None when there is no such track."""
        place = ABSENT if track_id is None else self.ids.find_one(bare(track_id))
        return None if place == ABSENT else int(self.id_rows[place])

    def has_any_id(self, rows: Rows, track_ids: Set[str]) -> NDArray[np.bool_]:
        """Whether each row is known by any of the bare track ids. Costs by the rows, however many ids there are."""
        found = np.array([each in track_ids for each in self.track_ids.take(rows)], bool)
        owners, positions = self._aliases
        first, last = (np.searchsorted(owners, rows.astype(owners.dtype), side) for side in ("left", "right"))
        for i in np.flatnonzero(first < last).tolist():
            found[i] |= not track_ids.isdisjoint(self.ids.take(positions[first[i] : last[i]]))
        return found

    @cached_property
    def _aliases(self) -> tuple[NDArray[np.int32], Rows]:
        """The ids by which recordings are known beside the one that is answered: their rows, ascending, and where they
        stand among the ids."""
        parts = []
        for start in range(0, len(self.ids.sorted), CHUNK):
            few = slice(start, start + CHUNK)
            answered = gather(self.track_ids.sorted, self.id_rows[few])
            parts.append(start + np.flatnonzero(self.ids.sorted[few] != answered))
        positions = np.concatenate(parts) if parts else np.empty(0, np.int64)
        order = np.argsort(self.id_rows[positions], kind="stable")
        return self.id_rows[positions][order], positions[order]

    def track_id(self, row: int) -> str:
        """The id by which a recording is answered."""
        return self.track_ids.take(np.array([row]))[0]

    def labels(self, rows: Rows) -> list[tuple[str, str, str]]:
        """Id, name and artists of each row, as they are shown."""
        artists = [each.replace(";", ", ") for each in self.artists.take(rows)]
        return list(zip(self.track_ids.take(rows), self.names.take(rows), artists, strict=True))


def _load(files: PartFiles) -> Catalog:
    array = files.array
    return Catalog(
        ids=Keys(array("ids")),
        id_rows=array("id_rows"),
        track_ids=Keys(array("track_ids")),
        names=Strings(array("name_offsets"), array("name_data")),
        artists=Strings(array("artist_offsets"), array("artist_data")),
        inputs=array("inputs"),
        families=array("families"),
        moods=array("moods"),
        freshness=array("freshness"),
        popularity=array("popularity"),
        popular=array("popular"),
    )


def _validate(checks: Checks) -> None:
    checks.sorted_keys("ids")
    checks.sorted_keys("track_ids")
    checks.rows("id_rows", "tracks")
    _check_own_ids(checks)
    checks.rows("popular", "tracks")
    checks.within("moods", 0, len(MOODS) - 1)
    checks.within("families", 0, 2 ** len(checks.manifest.families) - 1)
    checks.within("freshness", 0, 1)
    checks.within("popularity", 0, 1)
    _check_inputs(checks)
    for name in ("name", "artist"):
        checks.offsets(f"{name}_offsets", checks.manifest.size(f"{name}_bytes"))
        checks.text(f"{name}_offsets", f"{name}_data")


def _check_own_ids(checks: Checks) -> None:
    """Check that the id of every recording leads to its row. Ids and recordings are in the same order."""
    ids, rows, own = (checks.array(name) for name in ("ids", "id_rows", "track_ids"))
    count, start = 0, 0
    for chunk in chunks(ids):
        chunk_rows = rows[start : start + len(chunk)]
        named = chunk_rows[chunk == own[chunk_rows]]
        if not np.array_equal(named, np.arange(count, count + len(named))):
            raise checks.error("id_rows", "the row of each track's own id", "another")
        count, start = count + len(named), start + len(chunk)
    if count != checks.manifest.size("tracks"):
        raise checks.error("ids", "every id of catalog/track_ids", "fewer")


def _check_inputs(checks: Checks) -> None:
    """Check that every input is in its range, or NaN."""
    array = checks.array("inputs")
    smallest, largest = (function.reduce(array, axis=0) for function in (np.fmin, np.fmax))
    for feature, low, high in zip(INPUTS, smallest.tolist(), largest.tolist(), strict=True):
        if low < feature.low or high > feature.high:
            raise checks.error("inputs", f"{feature.name} in {feature.low:g}..{feature.high:g}", f"{low:g}..{high:g}")


PART = Part(
    name="catalog",
    load=_load,
    validate=_validate,
    labels={"features": list(INPUTS)},
    arrays={
        "ids.npy": Array("S", ("ids",)),
        "id_rows.npy": Array("<i4", ("ids",)),
        "track_ids.npy": Array("S", ("tracks",)),
        "name_offsets.npy": Array("<i8", ("tracks+1",)),
        "name_data.npy": Array("|u1", ("name_bytes",)),
        "artist_offsets.npy": Array("<i8", ("tracks+1",)),
        "artist_data.npy": Array("|u1", ("artist_bytes",)),
        "inputs.npy": Array("<f4", ("tracks", len(INPUTS))),
        "families.npy": Array("<u4", ("tracks",)),
        "moods.npy": Array("|u1", ("tracks",)),
        "freshness.npy": Array("<f4", ("tracks",)),
        "popularity.npy": Array("<f4", ("tracks",)),
        "popular.npy": Array("<i4", ("popular",)),
    },
    counts={
        "tracks": range(1, MAX_ROWS),
        "ids": range(1, MAX_ROWS),
        "name_bytes": range(2**40),
        "artist_bytes": range(2**40),
        "popular": range(10_001),
    },
)
