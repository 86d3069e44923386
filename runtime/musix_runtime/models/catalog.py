"""Catalog: from track ids to rows and back, and what is known of each track. Nothing is read until asked for."""

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import ABSENT, Floats, Keys, Rows, Strings, gather

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
    """One row a recording, in the order of track ids; a recording may be known by several ids."""

    ids: Keys
    id_rows: NDArray[np.int32]
    track_ids: Keys
    names: Strings
    artists: Strings
    inputs: Floats
    families: NDArray[np.uint32]
    moods: NDArray[np.uint8]

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
