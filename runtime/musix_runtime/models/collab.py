"""Collab: how well a track fits what a listener, and listeners alike, have heard."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.bundle.manifest import MAX_HISTORY, MAX_ROWS
from musix_runtime.bundle.part import Array, Part
from musix_runtime.bundle.part_files import PartFiles
from musix_runtime.bundle.validation import Checks
from musix_runtime.models.arrays import ABSENT, Floats, Keys, RaggedRows, Rows, gather
from musix_runtime.models.comparison import contribution_error
from musix_runtime.models.index import Index
from musix_runtime.models.index_file import index_file
from musix_runtime.schemas import TIME_RANGES, TimeRange

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
        if time_range in TIME_RANGES[:-1]:
            for count in self.recent[listener, TIME_RANGES.index(time_range) :].tolist():
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

    def scorer(self, factors: Floats) -> "AffinityScorer":
        """Scores tracks for the user with these factors (51,)."""
        return AffinityScorer(self, factors)

    def queries(self, factors: Floats) -> Floats:
        """What the index is asked for users with `factors` (batch, 51): a track's bias counts in full, and a user's own
        bias is the same for all tracks. Shape (batch, 51)."""
        found = factors.copy()
        found[:, -1] = 1
        return found

    def averages(self, queries: Floats) -> Floats:
        """The product of the average track with each of the queries (batch, 51). Shape (batch,)."""
        return np.einsum("bd,d->b", queries, self.track_mean)

    def affinities(self, positions: NDArray[Any], queries: Floats, best: Floats) -> Floats:
        """How well the tracks at `positions` (batch, n) match each of the queries (batch, 51), in 0..1: 0 for the
        average track or worse, and for ABSENT; 1 for the product `best` (batch,). Shape (batch, n)."""
        averages = self.averages(queries)[:, None]
        found = np.einsum("bkd,bd->bk", self.index.vectors(positions), queries)
        found -= averages
        found /= np.maximum(best[:, None] - averages, np.float32(1e-6))
        found[positions < 0] = 0
        return np.minimum(np.maximum(found, 0, out=found), 1, out=found)

    def item_affinities(self, positions: NDArray[Any], taste: Floats) -> Floats:
        """How much the `taste` (batch, taste_width) of each user speaks for the tracks at `positions` (batch, n), by
        who hears them: the product of their vectors, in 0..1, and 0 for ABSENT. Shape (batch, n)."""
        found = np.einsum("bkd,bd->bk", gather(self.tastes, positions), taste)
        found[positions < 0] = 0
        return np.minimum(np.maximum(found, 0, out=found), 1, out=found)

    def taste(self, rows: RaggedRows) -> Floats:
        """The sum of the vectors of what each user heard. Shape (batch, taste_width)."""
        positions = self.places(rows.values)
        vectors = gather(self.tastes, positions)
        vectors[positions < 0] = 0
        return rows.sums(vectors)


class AffinityScorer:
    """Scores tracks for one user by factors: 0 is the average track or worse, 1 the user's best."""

    def __init__(self, collab: Collab, factors: Floats) -> None:
        self._collab = collab
        self.query = collab.queries(factors[None])[0]

    @cached_property
    def best(self) -> Floats:
        """The product of the best track; the average where there is none. Shape (1,)."""
        _, products = self._collab.index.nearest(self.query, 1)
        return products if len(products) else self._collab.averages(self.query[None])

    def score(self, rows: NDArray[Any]) -> Floats:
        """Score of each catalogue row, 0 for tracks that nobody has heard. Shape (n,)."""
        positions = self._collab.places(np.asarray(rows, np.int64))
        return self._collab.affinities(positions[None], self.query[None], self.best)[0]


def _load(files: PartFiles) -> Collab:
    array = files.array
    return Collab(
        listeners=Keys(array("listeners")),
        listener_factors=array("listener_factors"),
        rows=array("rows"),
        index=files.index("index"),
        track_mean=array("track_mean"),
        tastes=array("tastes"),
        fold_in_map=array("fold_in"),
        history_offsets=array("history_offsets"),
        history_rows=array("history_rows"),
        recent=array("history_recent"),
    )


def _validate(checks: Checks) -> None:
    checks.sorted_keys("listeners")
    checks.factors("listener_factors", "track_factors", "track_mean", "tastes", "fold_in")
    checks.rows("rows", "tracks")
    checks.ascending("rows")
    checks.rows("history_rows", "tracks")
    checks.offsets("history_offsets", checks.manifest.size("plays"), MAX_HISTORY)
    recent, lengths = checks.array("history_recent"), np.diff(checks.array("history_offsets"))
    if (recent < 0).any() or (recent[:, 0] > recent[:, 1]).any() or (recent[:, 1] > lengths).any():
        raise checks.error("history_recent", "short term <= medium term <= history", "others")


PART = Part(
    name="collab",
    load=_load,
    validate=_validate,
    recommend_error=contribution_error("collab"),
    arrays={
        "listeners.npy": Array("S", ("listeners",)),
        "listener_factors.npy": Array("<f4", ("listeners", "collab_width")),
        "rows.npy": Array("<i4", ("heard",)),
        "track_factors.npy": Array("<f4", ("heard", "collab_width")),
        "track_mean.npy": Array("<f4", ("collab_width",)),
        "tastes.npy": Array("<f4", ("heard", "taste_width")),
        "fold_in.npy": Array("<f4", ("collab_width+1", "collab_width")),
        "history_offsets.npy": Array("<i8", ("listeners+1",)),
        "history_rows.npy": Array("<i4", ("plays",)),
        "history_recent.npy": Array("<i4", ("listeners", 2)),
    },
    indexes={"index.faiss": index_file("track_factors.npy")},
    counts={
        "listeners": range(MAX_ROWS),
        "heard": range(MAX_ROWS),
        "collab_width": range(2, 257),
        "taste_width": range(1, 257),
        "plays": range(2**40),
    },
)
