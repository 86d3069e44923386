"""Simulated tracks, interactions and impressions with planted structure, sampled from a seed.

The structure, which tests know:
- nine of ten tracks of an artist are of one family; families differ in sound, with much overlap;
- nine of ten plays of a listener are of its three favourite families, newer releases more often;
- an impression is positive with `positive_probability`: high for favourite families, higher for new releases.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from musix_trainer.data import families as genre_families
from musix_trainer.data.tables import Table
from musix_trainer.recipe import Synthetic

FAMILIES = genre_families.read().labels
FAVOURITES = 3
LOYALTY = 0.9  # share of plays that are of favourite families
STRAY = 0.1  # share of an artist's tracks whose family is random
N_IMPRESSIONS = 20  # of each listener
DAY = 86_400
NEWEST = 1_735_689_600  # 2025-01-01, seconds since 1970
OLDEST = NEWEST - 15 * 365 * DAY


@dataclass(frozen=True)
class World:
    """The simulated tables and their planted structure.

    `family` and `fresh` (tracks,): family and freshness 0..1; `favourite` (listeners, families): favourite families.
    """

    family: NDArray[np.int64]
    fresh: NDArray[np.float64]
    favourite: NDArray[np.bool_]
    tracks: pl.DataFrame
    listening: pl.DataFrame
    feedback: pl.DataFrame


def positive_probability(favourite: NDArray[np.bool_], fresh: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability that an impression is positive, by the planted rule. Shape as the arguments."""
    return np.where(favourite, 0.55 + 0.4 * fresh, 0.05 + 0.1 * fresh)


def generate_tables(settings: Synthetic, seed: int) -> dict[str, Table]:
    """Return the three tables, marked as simulated, as `tables.read` returns files."""
    world = generate(settings, seed)
    frames = {"tracks": world.tracks, "listening": world.listening, "feedback": world.feedback}
    return {
        name: Table(frame, f"simulated {name}", hashlib.sha256(frame.write_csv().encode()).hexdigest(), simulated=True)
        for name, frame in frames.items()
    }


def generate(settings: Synthetic, seed: int) -> World:
    """Simulate all tables."""
    rng = np.random.default_rng(seed)
    tracks, family, released = _tracks(settings.tracks, rng)
    fresh = 0.5 ** ((NEWEST - released) / (2 * 365 * DAY))
    favourite = np.zeros((settings.listeners, len(FAMILIES)), bool)
    for row in favourite:
        row[rng.choice(len(row), FAVOURITES, replace=False)] = True
    popularity = tracks["popularity"].to_numpy()[: settings.tracks] / 100
    listening = _listening(favourite, family, (0.1 + popularity) * (0.3 + fresh), rng)
    feedback = _feedback(favourite, family, fresh, rng)
    return World(family, fresh, favourite, tracks, listening, feedback)


def track_id(number: int) -> str:
    """Return the id of a simulated track: 22 characters, as Spotify's."""
    return f"simulated{number:013d}"


def user_id(number: int) -> str:
    """Return the id of a simulated listener."""
    return f"listener-{number:03d}"


def _tracks(count: int, rng: np.random.Generator) -> tuple[pl.DataFrame, NDArray[np.int64], NDArray[np.int64]]:
    labels = list(FAMILIES.values())
    artists = max(count // 10, len(labels))
    artist_family = np.arange(artists) % len(labels)
    artist_fame = rng.beta(2, 3, artists)
    artist = rng.integers(0, artists, count)
    strays = rng.random(count) < STRAY
    family = np.where(strays, rng.integers(0, len(labels), count), artist_family[artist])
    released = rng.integers(OLDEST, NEWEST, count) // DAY * DAY
    frame = pl.DataFrame(
        {
            "track_id": [track_id(i) for i in range(count)],
            "track_name": [f"Simulated Song {i:05d}" for i in range(count)],
            "artists": [f"Simulated Artist {i:04d}" for i in artist],
            "popularity": np.clip(100 * artist_fame[artist] + rng.normal(0, 8, count), 0, 100).round().astype(int),
            "duration_ms": np.clip(rng.normal(215_000, 45_000, count), 45_000, 600_000).astype(int),
            "explicit": rng.random(count) < 0.05 + 0.3 * (family % 3 == 0),
            **_sound(family, artist, rng),
            "track_genre": [labels[f][i % len(labels[f])] for f, i in zip(family, artist, strict=True)],
            "release_date": pl.Series(released * 1000, dtype=pl.Int64).cast(pl.Datetime("ms")).dt.strftime("%Y-%m-%d"),
        }
    )
    # Every tenth track has a second label of its family; every fiftieth also has another id.
    second = frame[::10].with_columns(
        track_genre=pl.Series(
            [labels[family[i]][(artist[i] + 1) % len(labels[family[i]])] for i in range(0, count, 10)]
        )
    )
    duplicates = frame[::50].with_columns(track_id=pl.Series([track_id(count + i) for i in range(0, count, 50)]))
    return pl.concat([frame, second, duplicates]), family, released


def _sound(
    family: NDArray[np.int64], artist: NDArray[np.int64], rng: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    """Return audio features, each the sum of a family, an artist and a track effect."""

    def share() -> NDArray[np.float64]:
        family_effect = rng.normal(0, 1.2, family.max() + 1)
        artist_effect = rng.normal(0, 0.5, artist.max() + 1)
        return 1 / (1 + np.exp(-(family_effect[family] + artist_effect[artist] + rng.normal(0, 0.8, len(family)))))

    names = ("danceability", "energy", "speechiness", "acousticness", "instrumentalness", "liveness", "valence")
    shares = {name: share().round(4) for name in names}
    return {
        **shares,
        "key": rng.integers(0, 12, len(family)).astype(float),
        "loudness": (-25 + 22 * shares["energy"] + rng.normal(0, 2, len(family))).round(3),
        "mode": (rng.random(len(family)) < 0.6).astype(float),
        "tempo": (60 + 130 * share()).round(3),
        "time_signature": np.where(rng.random(len(family)) < 0.9, 4.0, 3.0),
    }


def _listening(
    favourite: NDArray[np.bool_], family: NDArray[np.int64], appeal: NDArray[np.float64], rng: np.random.Generator
) -> pl.DataFrame:
    rows = []
    for listener, favourites in enumerate(favourite):
        loved = favourites[family]
        chance = appeal * np.where(loved, LOYALTY / (appeal * loved).sum(), (1 - LOYALTY) / (appeal * ~loved).sum())
        played = rng.choice(len(family), rng.integers(20, 60), p=chance / chance.sum())
        times = rng.integers(NEWEST - 400 * DAY, NEWEST, len(played))
        rows += [(user_id(listener), track_id(track), int(time)) for track, time in zip(played, times, strict=True)]
    return pl.DataFrame(rows, schema=["user_id", "track_id", "timestamp"], orient="row")


def _feedback(
    favourite: NDArray[np.bool_], family: NDArray[np.int64], fresh: NDArray[np.float64], rng: np.random.Generator
) -> pl.DataFrame:
    rows = []
    for listener, favourites in enumerate(favourite):
        loved = np.flatnonzero(favourites[family])
        shown = np.concatenate(
            [rng.choice(loved, N_IMPRESSIONS // 2), rng.integers(0, len(family), N_IMPRESSIONS - N_IMPRESSIONS // 2)]
        )
        shown = rng.permutation(shown)
        positive = rng.random(N_IMPRESSIONS) < positive_probability(favourites[family[shown]], fresh[shown])
        start = int(rng.integers(NEWEST - 100 * DAY, NEWEST - DAY))
        for position, (track, is_positive) in enumerate(zip(shown, positive, strict=True)):
            event = ("played", "saved", "clicked")[track % 3] if is_positive else "skipped"
            rows.append((user_id(listener), track_id(track), start + 200 * position, event, position))
    return pl.DataFrame(rows, schema=["user_id", "track_id", "timestamp", "event", "position"], orient="row")
