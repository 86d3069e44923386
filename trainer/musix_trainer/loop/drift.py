"""Drift: how far what listeners play now differs from what they played when the bundle was new.

The unit is the listener, as the plays of one listener are alike: each weighs the same, and resamples are of listeners.
One who is in both windows is resampled in both together, so that the likeness of the windows counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from musix_runtime.feedback.reports import DRIFT_INPUTS, InputDrift, Shares
from musix_runtime.inspection.drift import THRESHOLDS, bin_count, bin_edges, bin_numbers
from musix_runtime.models.arrays import Rows
from musix_runtime.models.catalog import Catalog
from musix_runtime.models.features import AUDIO_NAMES
from musix_runtime.models.mood import MOODS
from musix_trainer.evaluation.bootstrap import ClusteredMetric, lower_bound
from musix_trainer.loop.comparison import Floats

MIN_LISTENERS = 50  # in each window: with fewer, chance alone hides or looks like a drift
MAX_KL = THRESHOLDS["KL"]  # nats
RESAMPLES = 200
LEVEL = 0.95  # probability that all lower bounds hold together
PRIOR = 0.5  # listeners in each bin, so that no divergence is infinite
NO_QUANTITIES = ("key", "mode", "time_signature")  # numbers without a meaningful distance
NO_GENRE = "unknown"


@dataclass(frozen=True)
class TrackBins:
    """The bins of tracks, for each of `DRIFT_INPUTS`: the columns of input i begin at `starts[i]`.

    `shares` (tracks, columns) has the share of a track in each bin: 1 in one bin, or divided among its genres. It is
    sparse.
    """

    genres: tuple[str, ...]  # the names of the columns of genres
    starts: Rows
    shares: Any

    def columns(self, name: str) -> slice:
        """Return the columns of an input."""
        stops = [*self.starts[1:].tolist(), self.shares.shape[1]]
        i = DRIFT_INPUTS.index(name)
        return slice(int(self.starts[i]), stops[i])


def track_bins(catalog: Catalog, rows: Rows) -> TrackBins:
    """Return the bins of rows of the catalogue: quantiles of its audio features, its genres and its moods."""
    blocks = [_feature_bins(catalog.inputs[:, i], rows) for i in range(len(AUDIO_NAMES))]
    blocks += [_genre_bins(catalog, rows), _one_hot(catalog.moods[rows].astype(np.int64), len(MOODS))]
    starts = np.cumsum([0, *(block.shape[1] for block in blocks[:-1])])
    return TrackBins((*catalog.genres, NO_GENRE), starts, sparse.hstack(blocks, format="csr"))


def _feature_bins(column: NDArray[Any], rows: Rows) -> Any:
    edges = bin_edges(column)
    return _one_hot(bin_numbers(column[rows], edges), bin_count(edges))


def _genre_bins(catalog: Catalog, rows: Rows) -> Any:
    """Return the shares of the genres of tracks; the last column is for tracks without any."""
    bits = catalog.families[rows, None] >> np.arange(len(catalog.genres), dtype=np.uint32) & 1
    known = np.column_stack([bits, ~bits.any(axis=1)]).astype(np.float64)
    return sparse.csr_array(known / known.sum(axis=1, keepdims=True))


def _one_hot(numbers: Rows, count: int) -> Any:
    shape = len(numbers), count
    return sparse.csr_array((np.ones(len(numbers)), (np.arange(len(numbers)), numbers)), shape=shape)


@dataclass(frozen=True)
class Profiles:
    """What listeners played in several windows: `weights` has for each the share of each track in the plays of each
    listener (listeners, tracks), whose rows sum to 1, or to 0 for those who played nothing in it."""

    rows: Rows  # of the catalogue, one for each track
    weights: list[Any]  # sparse

    @classmethod
    def of(cls, windows: Sequence[pl.DataFrame]) -> "Profiles":
        """Return the profiles of windows, whose columns are user_id and row: one line for each play."""
        plays = pl.concat([window.with_columns(window=pl.lit(i)) for i, window in enumerate(windows)])
        rows, track = np.unique(plays["row"].to_numpy(), return_inverse=True)
        listener = plays["user_id"].rank("dense").to_numpy().astype(np.int64) - 1
        shape = plays["user_id"].n_unique(), len(rows)
        of_window = [plays["window"].to_numpy() == i for i in range(len(windows))]
        return cls(rows, [_weights(listener[mask], track[mask], shape) for mask in of_window])


def _weights(listener: Rows, track: Rows, shape: tuple[int, int]) -> Any:
    plays = np.bincount(listener, minlength=shape[0])
    return sparse.csr_array((1 / plays[listener], (listener, track)), shape=shape)


def measure(catalog: Catalog, reference: Any, live: Any, bins: TrackBins, rows: Rows) -> dict[str, InputDrift]:
    """Return the drift of each input, from the weights of `Profiles` of both windows, and the bins of its tracks."""
    before, after = ((weights @ bins.shares).toarray() for weights in (reference, live))
    if min(listeners(before), listeners(after)) < MIN_LISTENERS:
        return dict.fromkeys(DRIFT_INPUTS, InputDrift(None, None, None))
    kl, low = divergences(before, after, bins.starts)
    totals = reference.sum(axis=0), live.sum(axis=0)
    return {
        name: InputDrift(float(kl[i]), float(low[i]), _distance(catalog, name, rows, *totals))
        for i, name in enumerate(DRIFT_INPUTS)
    }


def listeners(shares: Floats) -> int:
    """Return how many listeners played anything, of their shares (listeners, n)."""
    return int(np.count_nonzero(shares.sum(axis=1)))


def divergences(reference: Floats, live: Floats, starts: Rows) -> tuple[Floats, Floats]:
    """Return the KL divergence of `live` from `reference` for each input, and its lower bound, in nats. All
    bounds hold together with a probability of `LEVEL` (Bonferroni).

    Both are the shares of listeners in the bins (listeners, columns); the columns of input i begin at `starts[i]`.
    """
    columns = live.shape[1]
    sizes = np.diff([*starts, columns])

    def smoothed(counts: Floats) -> Floats:
        totals = np.add.reduceat(counts, starts, axis=-1) + PRIOR * sizes
        return (counts + PRIOR) / np.repeat(totals, sizes, axis=-1)

    def divergence(sums: Floats) -> Floats:
        after, before = smoothed(sums[..., :columns]), smoothed(sums[..., columns:])
        return np.add.reduceat(after * np.log(after / before), starts, axis=-1)

    sums = np.hstack([live, reference])
    return lower_bound(
        ClusteredMetric(sums[sums.any(axis=1)], divergence), RESAMPLES, level=1 - (1 - LEVEL) / len(starts)
    )


def _distance(catalog: Catalog, name: str, rows: Rows, reference: Floats, live: Floats) -> float | None:
    """Return the Wasserstein-1 distance of a feature, in standard deviations of the reference.

    The weights of the tracks are (tracks,). Returns None for what is no quantity, is never known, or does not vary.
    """
    from scipy import stats  # half a second to import, for this function alone

    if name not in AUDIO_NAMES or name in NO_QUANTITIES:
        return None
    values = catalog.inputs[rows, AUDIO_NAMES.index(name)].astype(np.float64)
    known = ~np.isnan(values)
    values, reference, live = values[known], reference[known], live[known]
    if reference.sum() <= 0 or live.sum() <= 0:
        return None
    deviation = np.sqrt(np.average(np.square(values - np.average(values, weights=reference)), weights=reference))
    return float(stats.wasserstein_distance(values, values, live, reference) / deviation) if deviation else None


def genre_and_mood_shares(weights: Any, bins: TrackBins) -> Shares:
    """Return the shares of genres and moods in a window. Genres that do not occur are left out."""
    shares = (weights @ bins.shares).toarray()
    mean = shares.sum(axis=0) / max(listeners(shares), 1)
    genres = dict(zip(bins.genres, mean[bins.columns("genre")].tolist(), strict=True))
    moods = dict(zip(MOODS, mean[bins.columns("mood")].tolist(), strict=True))
    return Shares({name: share for name, share in genres.items() if share}, moods)
