"""The inputs of a track: names, order, units and ranges. The one place where they are defined."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Feature:
    """One number that describes a track, valid in the closed range `low`..`high`."""

    name: str
    unit: str
    low: float
    high: float


# Spotify's audio features under Spotify's names, in the order of every matrix of features.
AUDIO = (
    Feature("danceability", "share", 0, 1),
    Feature("energy", "share", 0, 1),
    Feature("key", "pitch class, -1 unknown", -1, 11),
    Feature("loudness", "dB", -70, 10),
    Feature("mode", "1 major, 0 minor", 0, 1),
    Feature("speechiness", "share", 0, 1),
    Feature("acousticness", "share", 0, 1),
    Feature("instrumentalness", "share", 0, 1),
    Feature("liveness", "share", 0, 1),
    Feature("valence", "share", 0, 1),
    Feature("tempo", "beats per minute", 0, 300),
    Feature("time_signature", "beats per bar", 0, 16),
)

# What else a service may know of a track. Missing values are NaN.
EXTRA = (
    Feature("popularity", "0 to 100", 0, 100),
    Feature("duration_ms", "ms", 1, 86_400_000),
    Feature("explicit", "1 yes, 0 no", 0, 1),
)

INPUTS = AUDIO + EXTRA
AUDIO_NAMES = tuple(feature.name for feature in AUDIO)
INPUT_NAMES = tuple(feature.name for feature in INPUTS)
