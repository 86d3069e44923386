"""Collab: collaborative filtering by matrix factors, and item affinities by co-occurrence."""

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

# Days of each time range, counted back from the newest play of the data. long_term has no limit.
RANGE_DAYS = {"short_term": 28, "medium_term": 182}


FOLD_IN_PRIOR = 2  # a history's factors are their sum / (number + 2), so that a short history says less


@dataclass(frozen=True)
class Collab:
    """Matrix factors with 50 components and a bias, and the histories of all listeners.

    Only tracks with interactions have factors: `rows` (heard,) has their catalogue rows, ascending, `index` their
    factors in this order, and `tastes` (heard, taste_width) their co-occurrence embeddings. The affinity of a track to
    a listener is the inner product of its embedding and the sum of the embeddings in the listener's history.
    A history has catalogue rows, newest first (without timestamps: most played first); `recent` (listeners, 2) has the
    numbers of short-term and medium-term rows.
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
        """Return the catalogue rows of a listener's history."""
        start, stop = self.history_offsets[listener : listener + 2].tolist()
        return self.history_rows[start:stop].astype(np.int64)

    def count(self, listener: int, time_range: TimeRange) -> int:
        """Return the number of a listener's rows in the range, or in the next longer one if there are none."""
        if time_range in TIME_RANGES[:-1]:
            for count in self.recent[listener, TIME_RANGES.index(time_range) :].tolist():
                if count:
                    return count
        start, stop = self.history_offsets[listener : listener + 2].tolist()
        return stop - start

    def fold_in(self, history: Rows) -> Floats | None:
        """Return the factors of a new listener from a history, None if no track of it has factors. Shape (51,).

        A linear map converts the sum of the tracks' factors, divided by their number + 2. It was fitted by ridge
        regression to the factors that training found for listeners with such histories.
        """
        positions = self.places(history)
        positions = positions[positions != ABSENT]
        if not len(positions):
            return None
        return np.asarray(damped_mean(self.index.vectors(positions)) @ self.fold_in_map, np.float32)

    def places(self, rows: NDArray[Any]) -> NDArray[np.int32]:
        """Return the positions of catalogue rows among those with factors, ABSENT for tracks without factors."""
        return self.all_places.take(rows, mode="clip")

    @cached_property
    def all_places(self) -> NDArray[np.int32]:
        """The position of each catalogue row. The last element is for all higher rows."""
        positions = np.full(self.rows.max(initial=-1) + 2, ABSENT, np.int32)
        positions[self.rows] = np.arange(len(self.rows))
        return positions

    def scorer(self, factors: Floats) -> "AffinityScorer":
        """Return a scorer of tracks for the user with these factors (51,)."""
        return AffinityScorer(self, factors)

    def queries(self, factors: Floats) -> Floats:
        """Return the query vectors of users with `factors` (batch, 51). Shape (batch, 51).

        The last element is 1, which adds the bias of a track. The user's bias is the same for all tracks, so it is left
        out.
        """
        queries = factors.copy()
        queries[:, -1] = 1
        return queries

    def averages(self, queries: Floats) -> Floats:
        """Return the product of the average track and each query (batch, 51). Shape (batch,)."""
        return np.einsum("bd,d->b", queries, self.track_mean)

    def affinities(self, positions: NDArray[Any], queries: Floats, best: Floats) -> Floats:
        """Return the affinities of the tracks at `positions` (batch, n) to the queries (batch, 51). Shape (batch, n).

        They are in 0..1: 0 for the average track or worse, and for ABSENT; 1 for the product `best` (batch,).
        """
        averages = self.averages(queries)[:, None]
        affinities = np.einsum("bkd,bd->bk", self.index.vectors(positions), queries)
        affinities -= averages
        affinities /= np.maximum(best[:, None] - averages, np.float32(1e-6))
        affinities[positions < 0] = 0
        return np.minimum(np.maximum(affinities, 0, out=affinities), 1, out=affinities)

    def item_affinities(self, positions: NDArray[Any], taste: Floats) -> Floats:
        """Return the affinities of the tracks at `positions` (batch, n) to the users' `taste` (batch, taste_width).

        They are inner products of co-occurrence embeddings, clipped to 0..1, and 0 for ABSENT. Shape (batch, n).
        """
        affinities = np.einsum("bkd,bd->bk", gather(self.tastes, positions), taste)
        affinities[positions < 0] = 0
        return np.minimum(np.maximum(affinities, 0, out=affinities), 1, out=affinities)

    def taste(self, rows: RaggedRows) -> Floats:
        """Return the sum of the embeddings of the tracks of each user. Shape (batch, taste_width)."""
        positions = self.places(rows.values)
        vectors = gather(self.tastes, positions)
        vectors[positions < 0] = 0
        return rows.sums(vectors)


def damped_mean(factors: Floats) -> Floats:
    """Return the sum of the factors (n, width) divided by n + `FOLD_IN_PRIOR`, and a 1. Shape (width + 1,)."""
    return np.append(factors.sum(axis=0) / np.float32(len(factors) + FOLD_IN_PRIOR), np.float32(1))


class AffinityScorer:
    """Scores tracks for one user by factors: 0 for the average track or worse, 1 for the user's best track."""

    def __init__(self, collab: Collab, factors: Floats) -> None:
        self._collab = collab
        self.query = collab.queries(factors[None])[0]

    @cached_property
    def best(self) -> Floats:
        """The product of the best track, or of the average track if there is none. Shape (1,)."""
        _, products = self._collab.index.nearest(self.query, 1)
        return products if len(products) else self._collab.averages(self.query[None])

    def score(self, rows: NDArray[Any]) -> Floats:
        """Return the score of each catalogue row, 0 for tracks without factors. Shape (n,)."""
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
