"""Collab: how well a track fits what a listener, and listeners alike, have heard."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from musix_runtime.arrays import ABSENT, Floats, Keys, Rows

TimeRange = Literal["short_term", "medium_term", "long_term"]
# Days before the newest play of the data that each range spans; long_term is everything.
RANGE_DAYS = {"short_term": 28, "medium_term": 182}


@dataclass(frozen=True)
class Collab:
    """Matrix factors, 50 components and one bias each, with the history of every listener.

    Only tracks that someone has heard have factors: `rows` (heard,) are their catalogue rows, ascending.
    A history lists catalogue rows, newest first (without timestamps: most played first); `recent` (listeners, 2)
    counts how many of them are short-term and medium-term.
    """

    listeners: Keys
    listener_factors: Floats
    rows: NDArray[np.int32]
    track_factors: Floats
    track_mean: Floats
    fold_in_map: Floats
    history_offsets: NDArray[np.int64]
    history_rows: NDArray[np.int32]
    recent: NDArray[np.int32]

    def history(self, listener: int, time_range: TimeRange = "long_term") -> Rows:
        """Catalogue rows that a listener heard in the range; a range without plays gives the next longer one."""
        start, stop = self.history_offsets[listener : listener + 2]
        ranges = list(RANGE_DAYS)
        counts = [*self.recent[listener], stop - start]
        first = ranges.index(time_range) if time_range in ranges else len(ranges)
        count = next((count for count in counts[first:] if count), 0)
        return self.history_rows[start : start + count].astype(np.int64)

    def fold_in(self, heard: Rows) -> Floats | None:
        """Factors of a new listener from catalogue rows heard; None when none of them has factors. Shape (51,).

        The mean factors of the tracks go through a linear map that was fitted, by ridge regression, to give the
        factors which training found for listeners with such histories.
        """
        places = self.places(heard)
        places = places[places != ABSENT]
        if not len(places):
            return None
        mean = self.track_factors[places].mean(axis=0)
        return np.asarray(np.append(mean, np.float32(1)) @ self.fold_in_map, np.float32)

    def places(self, rows: Rows) -> Rows:
        """Where the catalogue rows stand in the track factors, ABSENT for tracks nobody has heard."""
        if not len(self.rows):
            return np.full(len(rows), ABSENT, np.int64)
        places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.where(self.rows[places] == rows, places, ABSENT)

    def scores(self, factors: Floats) -> Floats:
        """Raw score of every track that has factors. Shape (heard,)."""
        return np.asarray(self.track_factors @ _with_bias(factors) + factors[-1], np.float32)

    def matches(self, factors: Floats) -> Floats:
        """Scores as a match in 0..1: 0 is the average track or worse, 1 the listener's best. Shape (heard,)."""
        scores = self.scores(factors)
        average = self.track_mean @ _with_bias(factors) + factors[-1]
        spread = np.maximum(scores.max() - average, np.float32(1e-6))
        return np.clip((scores - average) / spread, 0, 1)


def _with_bias(factors: Floats) -> Floats:
    return np.append(factors[:-1], np.float32(1))
