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
    track_ids: NDArray[np.bytes_]
    names: Strings
    artists: Strings
    inputs: Floats
    families: NDArray[np.uint32]
    moods: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.track_ids)

    def rows(self, track_ids: Sequence[str]) -> Rows:
        """Row of each track id, ABSENT for ids that are not in the catalogue."""
        places = self.ids.find([bare(each) for each in track_ids])
        return np.where(places != ABSENT, self.id_rows[places], ABSENT).astype(np.int64)

    def row(self, track_id: str | None) -> int | None:
        """Row of one track id, None when there is no such track."""
        row = ABSENT if track_id is None else int(self.rows([track_id])[0])
        return None if row == ABSENT else row

    def track_id(self, row: int) -> str:
        """The id by which a recording is answered."""
        return bytes(self.track_ids[row]).decode()

    def labels(self, rows: Rows) -> list[tuple[str, str, str]]:
        """Id, name and artists of each row, as they are shown."""
        ids = [each.decode() for each in self.track_ids[rows].tolist()]
        artists = [each.replace(";", ", ") for each in self.artists.take(rows)]
        return list(zip(ids, self.names.take(rows), artists, strict=True))
