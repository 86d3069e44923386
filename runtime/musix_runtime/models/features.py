"""Definition of the inputs of a track: names, order, units and ranges."""

from collections.abc import Sequence

import numpy as np

from musix_runtime.bundle.manifest import Feature
from musix_runtime.models.arrays import Floats

SPREAD_PROBES = 64

# Spotify's audio features with Spotify's names, in the order of the columns of feature matrices.
AUDIO = (
    Feature("danceability", "share", 0.0, 1.0),
    Feature("energy", "share", 0.0, 1.0),
    Feature("key", "pitch class, -1 unknown", -1.0, 11.0),
    Feature("loudness", "dB", -70.0, 10.0),
    Feature("mode", "1 major, 0 minor", 0.0, 1.0),
    Feature("speechiness", "share", 0.0, 1.0),
    Feature("acousticness", "share", 0.0, 1.0),
    Feature("instrumentalness", "share", 0.0, 1.0),
    Feature("liveness", "share", 0.0, 1.0),
    Feature("valence", "share", 0.0, 1.0),
    Feature("tempo", "beats per minute", 0.0, 300.0),
    Feature("time_signature", "beats per bar", 0.0, 16.0),
)

# Metadata that a service may have. Missing values are NaN.
EXTRA = (
    Feature("popularity", "0 to 100", 0.0, 100.0),
    Feature("duration_ms", "ms", 1.0, 86_400_000.0),
    Feature("explicit", "1 yes, 0 no", 0.0, 1.0),
)

INPUTS = AUDIO + EXTRA
AUDIO_NAMES = tuple(feature.name for feature in AUDIO)
INPUT_NAMES = tuple(feature.name for feature in INPUTS)


def probes(features: Sequence[Feature]) -> Floats:
    """Return inputs on which a graph is tried: all lowest, all highest, all missing, each one alone at either end, and
    some spread over the ranges. Shape (3 + 2 n + `SPREAD_PROBES`, n)."""
    low = np.array([feature.low for feature in features], np.float32)
    high = np.array([feature.high for feature in features], np.float32)
    alone = [np.where(np.eye(len(features), dtype=bool), end, np.nan) for end in (low, high)]
    inside = low + (high - low) * spread(len(features))
    return np.vstack([low, high, np.full(len(features), np.nan), *alone, inside]).astype(np.float32)


def spread(n: int) -> Floats:
    """Return points spread evenly over the unit cube of `n` dimensions. Shape (`SPREAD_PROBES`, n).

    They are multiples of the roots of the primes, modulo 1 (Richtmyer 1951). For random points, each start of a server
    would import numpy.random, which takes 18 ms.
    """
    primes = [number for number in range(2, 8 * n) if all(number % other for other in range(2, number))][:n]
    points = np.arange(1, SPREAD_PROBES + 1)[:, None] * np.sqrt(primes)
    return (points % 1).astype(np.float32)
