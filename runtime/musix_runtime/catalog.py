"""Catalog: from track ids to rows and back, and what is known of each track. Nothing is read until asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from musix_runtime.arrays import ABSENT, Floats, Keys, Rows, Strings

URI = "spotify:track:"


def bare(track_id: str) -> str:
    """The track id without `spotify:track:`; both forms name the same track."""
    return track_id.removeprefix(URI)


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

    def track_id(self, row: int) -> str:
        """The id by which a recording is answered."""
        return self.track_ids.take(np.array([row]))[0]

    def labels(self, rows: Rows) -> list[tuple[str, str, str]]:
        """Id, name and artists of each row, as they are shown."""
        artists = [each.replace(";", ", ") for each in self.artists.take(rows)]
        return list(zip(self.track_ids.take(rows), self.names.take(rows), artists, strict=True))
