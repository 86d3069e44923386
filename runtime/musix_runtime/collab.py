"""Collab: how well a track fits what a listener, and listeners alike, have heard."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from musix_runtime import kernels
from musix_runtime.arrays import ABSENT, Floats, Keys, Rows
from musix_runtime.index import Index

TimeRange = Literal["short_term", "medium_term", "long_term"]
RANGES = get_args(TimeRange)
# Days before the newest play of the data that each range spans; long_term is everything.
RANGE_DAYS = {"short_term": 28, "medium_term": 182}


@dataclass(frozen=True)
class Collab:
    """Matrix factors, 50 components and one bias each, with the history of every listener.

    Only tracks that someone has heard have factors: `rows` (heard,) are their catalogue rows, ascending, and `index`
    holds their factors in this order, `tastes` (heard, taste_width) what they are heard together with: the products of
    a track's vector with all of a listener's, added up, are how much these speak for it.
    A history lists catalogue rows, newest first (without timestamps: most played first); `recent` (listeners, 2)
    counts how many of them are short-term and medium-term.
    """

    listeners: Keys
    listener_factors: Floats
    rows: NDArray[np.int32]
    index: Index
    track_mean: Floats
    tastes: Floats
    fold_in_map: Floats
    history_offsets: NDArray[np.int64]
    history_rows: NDArray[np.int32]
    recent: NDArray[np.int32]

    def history(self, listener: int) -> Rows:
        """Catalogue rows that a listener heard."""
        start, stop = self.history_offsets[listener : listener + 2].tolist()
        return self.history_rows[start:stop].astype(np.int64)

    def count(self, listener: int, time_range: TimeRange) -> int:
        """How many of a listener's history are of the range; of the next longer one, when there are none."""
        if time_range in RANGES[:-1]:
            for count in self.recent[listener, RANGES.index(time_range) :].tolist():
                if count:
                    return count
        start, stop = self.history_offsets[listener : listener + 2].tolist()
        return stop - start

    def fold_in(self, heard: Rows) -> Floats | None:
        """Factors of a new listener from catalogue rows heard; None when none of them has factors. Shape (51,).

        The mean factors of the tracks go through a linear map that was fitted, by ridge regression, to give the
        factors which training found for listeners with such histories.
        """
        places = self.places(heard)
        places = places[places != ABSENT]
        if not len(places):
            return None
        mean = self.index.vectors(places).mean(axis=0)
        return np.asarray(np.append(mean, np.float32(1)) @ self.fold_in_map, np.float32)

    def places(self, rows: NDArray[Any]) -> NDArray[np.int32]:
        """Where the catalogue rows stand among those with factors, ABSENT for tracks nobody has heard."""
        return self.all_places.take(rows, mode="clip")

    @cached_property
    def all_places(self) -> NDArray[np.int32]:
        """The place of each catalogue row; the last one stands for all rows beyond."""
        places = np.full(self.rows.max(initial=-1) + 2, ABSENT, np.int32)
        places[self.rows] = np.arange(len(self.rows))
        return places

    def matches(self, factors: Floats) -> "Matches":
        """How well tracks match the listener with these factors (51,)."""
        return Matches(self, factors)


class Matches:
    """How well tracks match one listener, by their factors: 0 is the average track or worse, 1 the listener's best.

    The product of factors, with the track's bias; the listener's own bias is the same for all tracks.
    """

    def __init__(self, collab: Collab, factors: Floats) -> None:
        self._collab = collab
        self.query = factors.copy()
        self.query[-1] = 1
        self.average = float(self.query @ collab.track_mean)

    @cached_property
    def best(self) -> float:
        """The product of the best track; the average where there is none."""
        _, products = self._collab.index.nearest(self.query, 1)
        return float(products[0]) if len(products) else self.average

    def of(self, rows: NDArray[Any]) -> Floats:
        """Match of each catalogue row, 0 for tracks that nobody has heard. Shape (n,)."""
        collab, found = self._collab, np.empty(len(rows), np.float32)
        given = np.asarray(rows, np.int64)
        kernels.matches(given, collab.all_places, collab.index.matrix, self.query, found, self.average, self.best)
        return found
