"""Catalog: row numbers of track ids, and the metadata of each track, read from mapped files."""

import re
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from datetime import date
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from musix_runtime.bundle.manifest import MAX_ROWS
from musix_runtime.bundle.part import Array, Part
from musix_runtime.bundle.part_files import PartFiles
from musix_runtime.bundle.validation import Checks, chunks
from musix_runtime.models.arrays import ABSENT, Floats, Keys, Rows, Strings, gather
from musix_runtime.models.features import INPUT_NAMES, INPUTS
from musix_runtime.models.mood import MOODS

SHARED = ("spotify:", "http", "HTTP", "open.", "play.")  # prefixes of URIs and links
_SHARED_TRACK = re.compile(
    r"(?:spotify:|(?:https?://)?(?:open|play)\.spotify\.com/)(?:intl-[a-z-]+/|embed/)*track[:/]([^/:?#\s]+)/?(?:[?#].*)?",
    re.ASCII | re.IGNORECASE | re.DOTALL,
)
CHUNK = 65_536  # ids that are compared at once
MAX_IDS = 256  # of a track
MEAN_IDS, FREE_IDS = 4, 1_000_000  # of all tracks: opening takes time for each id
MAX_TEXT_BYTES = 2_000  # of a name, and of the artists of a track
CACHED_MASKS = 16  # of filters, a byte for each track
UNKNOWN_DAY = np.iinfo(np.int32).min  # before every other day, so no lower bound of dates includes it
FIRST_DAY, LAST_DAY = ((day - date(1970, 1, 1)).days for day in (date.min, date.max))


def strip_uri(track_id: str) -> str:
    """Return the id in a Spotify URI (`spotify:track:ID`) or a link to open.spotify.com; any other text unchanged."""
    if not track_id.startswith(SHARED):
        return track_id
    match = _SHARED_TRACK.fullmatch(track_id)
    return match[1] if match else track_id


@dataclass(frozen=True)
class Catalog:
    """The recordings, one row each, in the order of their track ids. A recording may have several ids.

    `popular` has the rows of the most popular recordings, most popular first. `genres` are the names of the bits of
    `families`; `release_days` count from 1970-01-01, or are `UNKNOWN_DAY`.
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
    release_days: NDArray[np.int32]
    genres: list[str]

    def __len__(self) -> int:
        return len(self.track_ids.sorted)

    def rows(self, track_ids: Sequence[str]) -> Rows:
        """Return the row of each track id, ABSENT for ids that are not in the catalogue."""
        if not track_ids:
            return np.empty(0, np.int64)
        positions = self.ids.find([strip_uri(track_id) for track_id in track_ids])
        return np.where(positions != ABSENT, self.id_rows[positions], ABSENT).astype(np.int64)

    def row(self, track_id: str | None) -> int | None:
        """Return the row of one track id, None for an unknown id."""
        position = ABSENT if track_id is None else self.ids.find_one(strip_uri(track_id))
        return None if position == ABSENT else int(self.id_rows[position])

    def has_any_id(self, rows: Rows, track_ids: Set[str]) -> NDArray[np.bool_]:
        """Return whether each row has any of the track ids. The time does not depend on the number of ids."""
        matches = np.array([track_id in track_ids for track_id in self.track_ids.take(rows)], bool)
        owners = rows.astype(np.int64)
        first, last = (np.searchsorted(self._aliases, row << 32) for row in (owners, owners + 1))
        for i in np.flatnonzero(first < last).tolist():
            positions = self._aliases[first[i] : last[i]] & 0xFFFF_FFFF
            matches[i] |= not track_ids.isdisjoint(self.ids.take(positions))
        return matches

    @cached_property
    def _aliases(self) -> NDArray[np.int64]:
        """The ids that are not the main id of their recording, ascending: 2^32 times its row, plus the position in
        `ids`. One array, which is filled and sorted in place: there may be many."""
        aliases = np.empty(len(self.ids.sorted) - len(self.track_ids.sorted), np.int64)
        count = 0
        for start in range(0, len(self.ids.sorted), CHUNK):
            rows = self.id_rows[start : start + CHUNK].astype(np.int64)
            main_ids = gather(self.track_ids.sorted, rows)
            others = np.flatnonzero(self.ids.sorted[start : start + CHUNK] != main_ids)
            aliases[count : count + len(others)] = rows[others] << 32 | start + others
            count += len(others)
        aliases.sort()
        return aliases

    @cached_property
    def masks(self) -> Callable[[int | None, int | None, bool | None, int | None], NDArray[np.bool_]]:
        """The function that returns which tracks have any of the families and moods, given as bits, the value of
        explicit, and a release date from a day on; None for any. A track whose value is unknown has none of these.
        Shape (tracks,)."""

        # The function does not hold the catalogue, which holds it: in a circle, the files would stay open.
        track_families, track_moods, track_days = self.families, self.moods, self.release_days
        track_explicit = self.inputs[:, INPUT_NAMES.index("explicit")].copy()  # as a column of the file is scattered

        @lru_cache(maxsize=CACHED_MASKS)
        def mask(families: int | None, moods: int | None, explicit: bool | None, day: int | None) -> NDArray[np.bool_]:
            found = np.ones(len(track_families), bool)
            if families is not None:
                found &= track_families & np.uint32(families) != 0
            if moods is not None:
                found &= (np.uint32(moods) >> track_moods) & 1 != 0
            if explicit is not None:
                found &= track_explicit == explicit
            if day is not None:
                found &= track_days >= day
            found.flags.writeable = False
            return found

        return mask

    def track_id(self, row: int) -> str:
        """Return the main id of a recording, which responses have."""
        return self.track_ids.take(np.array([row]))[0]

    def labels(self, rows: Rows) -> list[tuple[str, str, str]]:
        """Return id, name and artists of each row for display."""
        artists = [names.replace(";", ", ") for names in self.artists.take(rows)]
        return list(zip(self.track_ids.take(rows), self.names.take(rows), artists, strict=True))

    @cached_property
    def genre_names(self) -> Callable[[int], list[str]]:
        """The genres that are the bits of a number of `families`."""
        genres = self.genres

        @lru_cache(maxsize=4096)
        def names(bits: int) -> list[str]:
            return [name for i, name in enumerate(genres) if bits >> i & 1]

        return names


def _load(files: PartFiles) -> Catalog:
    array = files.array
    catalog = Catalog(
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
        release_days=array("release_days"),
        genres=files.manifest.families,
    )
    _ = catalog._aliases  # now, as the first request that needs them would wait
    return catalog


def _validate(checks: Checks) -> None:
    _check_number_of_ids(checks)
    checks.sorted_keys("ids")
    _check_links(checks)
    checks.sorted_keys("track_ids")
    checks.rows("id_rows", "tracks")
    _check_main_ids(checks)
    checks.rows("popular", "tracks")
    checks.within("moods", 0, len(MOODS) - 1)
    checks.within("families", 0, 2 ** len(checks.manifest.families) - 1)
    checks.within("freshness", 0, 1)
    checks.within("popularity", 0, 1)
    _check_release_days(checks)
    _check_inputs(checks)
    for name in ("name", "artist"):
        checks.offsets(f"{name}_offsets", checks.manifest.size(f"{name}_bytes"), MAX_TEXT_BYTES)
        checks.text(f"{name}_offsets", f"{name}_data")


def _check_number_of_ids(checks: Checks) -> None:
    tracks, ids = checks.manifest.size("tracks"), checks.manifest.size("ids")
    if not tracks <= ids <= MEAN_IDS * tracks + FREE_IDS:
        expected = f"at least one id of each track, and at most {MEAN_IDS} of each and {FREE_IDS:,} others"
        raise checks.error("ids", f"{expected}, with {tracks:,} tracks", f"{ids:,}")


def _check_links(checks: Checks) -> None:
    """Check that no id is a link to another: see `strip_uri`. Nobody could ask for it."""
    ids = checks.array("ids")
    for prefix in SHARED:
        first, last = np.searchsorted(ids, np.array([prefix, prefix + "\x7f"], ids.dtype))
        for chunk in chunks(ids[first:last]):
            for found in map(bytes.decode, chunk.tolist()):
                if strip_uri(found) != found:
                    raise checks.error("ids", "ids of tracks without a link around them", repr(found))


def _check_main_ids(checks: Checks) -> None:
    """Check that the main id of each recording has its row. Ids and recordings are in the same order."""
    ids, rows, own = (checks.array(name) for name in ("ids", "id_rows", "track_ids"))
    count, start = 0, 0
    for chunk in chunks(ids):
        chunk_rows = rows[start : start + len(chunk)]
        named = chunk_rows[chunk == own[chunk_rows]]
        if not np.array_equal(named, np.arange(count, count + len(named))):
            raise checks.error("id_rows", "the row of the main id of each track", "another row")
        count, start = count + len(named), start + len(chunk)
    if count != checks.manifest.size("tracks"):
        raise checks.error("ids", "all ids of catalog/track_ids", "fewer")
    most = np.bincount(rows).max()
    if most > MAX_IDS:
        raise checks.error("id_rows", f"at most {MAX_IDS} ids of a track", f"{most:,}")


def _check_release_days(checks: Checks) -> None:
    """Check that each day is unknown or in the years 1 to 9999."""
    for chunk in chunks(checks.array("release_days")):
        wrong = chunk[(chunk != UNKNOWN_DAY) & ((chunk < FIRST_DAY) | (chunk > LAST_DAY))]
        if len(wrong):
            raise checks.error("release_days", f"{UNKNOWN_DAY} or days in {FIRST_DAY}..{LAST_DAY}", wrong[0])


def _check_inputs(checks: Checks) -> None:
    """Check that all inputs are NaN or in their ranges."""
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
        "release_days.npy": Array("<i4", ("tracks",)),
    },
    counts={
        "tracks": range(1, MAX_ROWS),
        "ids": range(1, MAX_ROWS),
        "name_bytes": range(2**40),
        "artist_bytes": range(2**40),
        "popular": range(10_001),
    },
)
