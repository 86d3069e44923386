"""Simulation of a catalogue and interactions of any size around the recordings of a small catalogue, from a seed.

Tracks come in families, clusters and artists, as real ones do; lengths of factors and spread of biases are those of the
factors trained on the Spotify tracks table and Last.fm's listening. The factors are more clustered than these: see
docs/performance.md for what the same index finds among either.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from musix_runtime.models import features
from musix_runtime.models.arrays import ABSENT, Floats, Keys, Rows
from musix_runtime.models.genre import artist_key
from musix_trainer.data.synthetic import NEWEST, OLDEST
from musix_trainer.data.tracks import Tracks
from musix_trainer.models import collab
from musix_trainer.models.collab import DAY, CollabModel
from musix_trainer.models.genre.model import GenreModel

CHUNK = 32_768  # rows that are drawn at once
PER_CLUSTER = 250  # tracks, about
PER_ARTIST = 10
APPEAL = 1.5  # standard deviation of the logarithm of the popularity: a long tail
WITHIN = 0.4  # share of the variance of audio features inside a cluster
FACTOR_SHARES = (0.10, 0.60, 0.25, 0.05)  # of the factors' variance: families, their clusters, artists, tracks
TRACK_LENGTH, LISTENER_LENGTH = 1.7, 3.0  # of factors
TRACK_BIAS, LISTENER_BIAS = 0.38, 0.6  # spread
NOISE = 0.3  # of a listener's factors around the mean of its tracks, relative to the length
LOYALTY = 0.85  # share of plays from the listener's own clusters
PLAYS = (5, 15.0)  # of a listener: minimum, and mean number above it
FOLD_IN_LISTENERS = 5_000  # listeners that the fold-in is fitted on


@dataclass(frozen=True)
class World:
    """The simulated tracks, one row each. `home` has the rows of the small catalogue at the centres of the clusters."""

    catalogue: Tracks
    artist: Rows
    cluster: Rows
    home: Rows
    appeal: NDArray[np.float64]


@dataclass(frozen=True)
class Histories:
    """Catalogue rows in the history of each listener, newest first."""

    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]
    recent: NDArray[np.int32]


def world(small: Tracks, tracks: int, rng: np.random.Generator) -> World:
    """Return a catalogue of tracks by long-tailed artists. All tracks of an artist are in one cluster."""
    clusters, artists = max(tracks // PER_CLUSTER, 1), max(tracks // PER_ARTIST, 1)
    home = rng.integers(0, len(small), clusters)
    place = (clusters * rng.random(artists) ** 1.5).astype(np.int64)
    artist = (artists * rng.random(tracks) ** 1.5).astype(np.int64)
    fame = rng.normal(0, 1, artists)
    appeal = APPEAL * (0.6 * fame[artist] + 0.8 * rng.normal(0, 1, tracks))
    cluster = place[artist]
    inputs = _inputs(small, home[cluster], appeal, rng)
    released = rng.integers(OLDEST, NEWEST, tracks) // DAY * DAY
    number = pl.int_range(tracks, eager=True)
    frame = pl.DataFrame(
        {
            "track_id": _numbered("simulated", number, 13),
            "track_name": _numbered("Simulated Song ", number, 7),
            "artists": _numbered("Simulated Artist ", pl.Series(artist), 7),
            "release_date": released,
        }
    )
    ids = pl.DataFrame({"track_id": frame["track_id"], "row": number})
    drawn = Tracks(frame, ids, inputs, small.labels, small.families[home[cluster]])
    return World(drawn, artist, cluster, home[place], np.exp(appeal))


def genre_model(model: GenreModel, small: Tracks, drawn: World) -> GenreModel:
    """Return the trained ensemble with the simulated artists, which have the factors of the artist at their centre."""
    names = drawn.catalogue.frame["artists"].unique().sort().to_list()
    artist = np.array([int(item.rpartition(" ")[2]) for item in names])
    around = [artist_key(small.frame["artists"][row].split(";")[0]) for row in drawn.home[artist].tolist()]
    known = Keys(model.artists).find(around)
    items = np.concatenate(
        [[0], 1 + known[known != ABSENT], np.arange(1 + len(model.artists), len(model.item_factors))]
    )
    return replace(
        model,
        artists=np.array([artist_key(name).encode() for name, row in zip(names, known, strict=True) if row != ABSENT]),
        item_factors=model.item_factors[items],
        item_biases=model.item_biases[items],
        artist_prior=model.artist_prior[known[known != ABSENT]],
    )


def histories(drawn: World, listeners: int, homes: int, rng: np.random.Generator) -> Histories:
    """Return the histories of the listeners, mostly from their `homes` clusters, with tracks drawn by popularity."""
    order = np.argsort(drawn.cluster, kind="stable")
    reach = np.concatenate([[0.0], np.cumsum(drawn.appeal[order])])
    starts = np.searchsorted(drawn.cluster[order], np.arange(drawn.cluster.max() + 2))
    result, lengths = [], []
    for start, stop in chunks(listeners):
        owner = np.repeat(np.arange(stop - start), PLAYS[0] + rng.geometric(1 / PLAYS[1], stop - start) - 1)
        tastes = drawn.cluster[rng.integers(0, len(order), (stop - start, homes))]
        taste = tastes[owner, rng.integers(0, homes, len(owner))]
        loyal = rng.random(len(owner)) < LOYALTY
        low = np.where(loyal, reach[starts[taste]], 0.0)
        high = np.where(loyal, reach[starts[taste + 1]], reach[-1])
        place = np.searchsorted(reach, low + (high - low) * rng.random(len(owner)), side="right") - 1
        heard = order[np.minimum(place, len(order) - 1)]
        pair = rng.permutation(np.unique(owner * len(order) + heard))
        pair = pair[np.argsort(pair // len(order), kind="stable")]
        result.append((pair % len(order)).astype(np.int32))
        lengths.append(np.bincount(pair // len(order), minlength=stop - start))
    length = np.concatenate(lengths)
    recent = (length[:, None] * np.array([0.2, 0.6])).astype(np.int32)
    return Histories(np.concatenate([[0], np.cumsum(length)]).astype(np.int64), np.concatenate(result), recent)


def collab_model(drawn: World, heard: Histories, width: int, ridge: float, rng: np.random.Generator) -> CollabModel:
    """Return factors (`width` and a bias) of all tracks with plays, and of listeners near the mean of their tracks."""
    tracks = _track_factors(drawn, width, rng)
    listeners = _listener_factors(tracks, heard, rng)
    rows = np.unique(heard.rows)
    tracks = tracks[rows]
    few = min(FOLD_IN_LISTENERS, len(listeners))
    offsets = heard.offsets[: few + 1]
    places = np.searchsorted(rows, heard.rows[: offsets[-1]])
    number = pl.int_range(len(listeners), eager=True)
    return CollabModel(
        listeners=encoded(_numbered("listener-", number, 7)),
        listener_factors=listeners,
        rows=rows.astype(np.int32),
        track_factors=tracks,
        track_mean=tracks.mean(axis=0),
        tastes=np.linalg.qr(tracks[:, :-1])[0],
        fold_in=collab.fit_fold_in(tracks, listeners[:few], places, offsets, ridge, seed=0),
        history_offsets=heard.offsets,
        history_rows=heard.rows,
        history_recent=heard.recent,
    )


def chunks(count: int) -> Iterator[tuple[int, int]]:
    """Yield start and stop of each chunk of `count` rows."""
    for start in range(0, count, CHUNK):
        yield start, min(start + CHUNK, count)


def encoded(texts: pl.Series) -> NDArray[np.bytes_]:
    """Return ASCII texts as fixed-width bytes."""
    return texts.to_numpy().astype(np.bytes_)


def _numbered(prefix: str, number: pl.Series, digits: int) -> pl.Series:
    return prefix + number.cast(pl.String).str.zfill(digits)


def _inputs(small: Tracks, around: Rows, appeal: NDArray[np.float64], rng: np.random.Generator) -> Floats:
    """Return inputs near those of the recordings `around`, with popularity by appeal. Shape (n, 15)."""
    low, high = (np.array([getattr(item, end) for item in features.INPUTS], np.float32) for end in ("low", "high"))
    whole = np.isin(features.INPUT_NAMES, ("key", "mode", "time_signature", "explicit"))
    spread = np.where(whole, 0, np.sqrt(WITHIN) * small.inputs.std(axis=0)).astype(np.float32)
    inputs = np.empty((len(around), len(low)), np.float32)
    for start, stop in chunks(len(around)):
        noise = spread * rng.standard_normal((stop - start, len(low)), np.float32)
        inputs[start:stop] = np.clip(small.inputs[around[start:stop]] + noise, low, high)
    inputs[:, features.INPUT_NAMES.index("popularity")] = np.clip(40 + 15 * appeal, 0, 100).round()
    return inputs


def _track_factors(drawn: World, width: int, rng: np.random.Generator) -> Floats:
    """Return factors of tracks with unequal variances, and biases by appeal. Shape (tracks, width + 1)."""
    axes = 0.95 ** np.arange(width)
    scale = TRACK_LENGTH * np.sqrt(axes / axes.sum())
    groups = (drawn.catalogue.families.argmax(axis=1), drawn.cluster, drawn.artist)
    *spreads, of_track = (scale * np.sqrt(share) for share in FACTOR_SHARES)
    centres = [
        (spread * rng.standard_normal((group.max() + 1, width))).astype(np.float32)
        for spread, group in zip(spreads, groups, strict=True)
    ]
    appeal = np.log(drawn.appeal)
    factors = np.empty((len(appeal), width + 1), np.float32)
    for start, stop in chunks(len(appeal)):
        noise = of_track * rng.standard_normal((stop - start, width), np.float32)
        around = sum(centre[group[start:stop]] for centre, group in zip(centres, groups, strict=True))
        factors[start:stop, :-1] = around + noise
    factors[:, -1] = TRACK_BIAS * (appeal - appeal.mean()) / appeal.std()
    return factors


def _listener_factors(tracks: Floats, heard: Histories, rng: np.random.Generator) -> Floats:
    """Return the directions of the mean tracks with noise, and biases. Shape (listeners, width + 1)."""
    count, width = len(heard.offsets) - 1, tracks.shape[1] - 1
    factors = np.empty((count, width + 1), np.float32)
    for start, stop in chunks(count):
        first, last = heard.offsets[start], heard.offsets[stop]
        mean = np.add.reduceat(tracks[heard.rows[first:last], :-1], heard.offsets[start:stop] - first)
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        noise = rng.standard_normal(mean.shape, np.float32) * (NOISE / np.sqrt(width))
        factors[start:stop, :-1] = LISTENER_LENGTH * (mean + noise)
        factors[start:stop, -1] = LISTENER_BIAS * rng.standard_normal(stop - start)
    return factors
