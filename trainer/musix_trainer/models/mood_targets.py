"""Targets of the mood network: what a teacher says about tracks, as probabilities of the five moods.

Two teachers: the rule, by thresholds of audio features, and perceived moods, by a table and by the quadrants of valence
and energy.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import Floats, Rows
from musix_runtime.models.features import AUDIO_NAMES
from musix_runtime.models.mood import MOODS
from musix_trainer.data import split
from musix_trainer.data.moods import Moods

# Features above (+1) or below (-1) a threshold.
RULE: dict[str, list[tuple[str, int, float]]] = {
    "happy": [("valence", 1, 0.7), ("energy", 1, 0.7)],
    "sad": [("valence", -1, 0.4)],
    "energetic": [("energy", 1, 0.8), ("danceability", 1, 0.7)],
    "calm": [("tempo", -1, 100), ("acousticness", 1, 0.5)],
    "focus": [("instrumentalness", 1, 0.6), ("speechiness", -1, 0.1)],
}
WIDTHS = {"tempo": 2.0, "speechiness": 0.01}  # of the soft thresholds; other features have 0.02
PRIOR = 0.2  # what the catalogue's shares count as, beside 1 for a mood by the rule
QUADRANT_WIDTH = 0.1  # of the soft medians of valence and energy
# Largest probability of focus by teacher. Of the rule, it can be chosen above the shares of the catalogue; of perceived
# moods, only where no other mood has two thirds of the rest.
FOCUS_LIMITS = {"rule": 0.5, "perceived": 0.4}


@dataclass(frozen=True)
class Examples:
    """Training examples: `rows` (n,) of the audio features, and probabilities of the moods, `targets` (n, 5)."""

    rows: Rows
    targets: Floats


def rule(audio: Floats) -> NDArray[np.bool_]:
    """Return the moods of each track by thresholds: several, one or none. `audio` (n, 12). Shape (n, 5)."""
    values = dict(zip(AUDIO_NAMES, audio.T, strict=True))
    moods = [
        np.logical_and.reduce([sign * values[name] > sign * threshold for name, sign, threshold in RULE[mood]])
        for mood in MOODS
    ]
    return np.stack(moods, axis=1)


def soft_rule(audio: Floats) -> Floats:
    """Return the rule as probabilities: moods near their thresholds have a part, and a track without any mood has the
    shares of the catalogue, `audio` (n, 12). Shape (n, 5)."""
    moods = rule(audio)
    counts = moods.sum(axis=1, keepdims=True)
    shares = 1 + (moods / np.maximum(counts, 1)).sum(axis=0)  # 1: a mood that never occurs has a share too
    strengths = np.stack([_strength(audio, mood) for mood in MOODS], axis=1) + PRIOR * shares / shares.sum()
    others = strengths[:, :4] / strengths[:, :4].sum(axis=1, keepdims=True)
    return _join(others, strengths[:, 4] / strengths.sum(axis=1), FOCUS_LIMITS["rule"])


def quadrants(audio: Floats) -> Floats:
    """Return the shares of the four perceived moods by valence and energy, at the medians of `audio` (n, 12).

    Quiet instrumentals of low valence are calm, not sad. Shape (n, 4).
    """
    bright, loud = (_soft_median(audio[:, AUDIO_NAMES.index(name)]) for name in ("valence", "energy"))
    happy, sad, energetic, calm = bright * loud, (1 - bright) * (1 - loud), (1 - bright) * loud, bright * (1 - loud)
    instrumental = _above(audio, *RULE["focus"][0])
    return np.stack([happy, sad * (1 - instrumental), energetic, calm + sad * instrumental], axis=1)


def with_focus(shares: Floats, audio: Floats) -> Floats:
    """Return probabilities of the five moods, from `shares` (n, 4) of the perceived ones and `audio` (n, 12)."""
    return _join(shares, _strength(audio, "focus"), FOCUS_LIMITS["perceived"])


def rule_examples(audio: Floats, validation: float, seed: int) -> tuple[Examples, Examples]:
    """Return all tracks with the soft rule as examples for training and for validation."""
    parts, targets = split.assign(len(audio), validation, 0, seed), soft_rule(audio)
    train, held_out = np.flatnonzero(parts == split.TRAIN), np.flatnonzero(parts == split.VALIDATION)
    return Examples(train, targets[train]), Examples(held_out, targets[held_out])


def perceived_examples(
    audio: Floats, moods: Moods, count: int, validation: float, seed: int
) -> tuple[Examples, Examples]:
    """Draw `count` examples for training, and a share of that for validation, from each source of moods, and as many
    from the quadrants of all tracks: the sources have equal weights, and so have the moods in each."""
    rng = np.random.default_rng(seed)
    tracks = split.assign(len(audio), validation, 0, seed)
    both = ((split.TRAIN, count), (split.VALIDATION, max(round(count * validation), 1)))
    train, held_out = (_draw(audio, moods, part, tracks == part, number, rng) for part, number in both)
    return train, held_out


def _draw(
    audio: Floats, moods: Moods, part: int, tracks: NDArray[np.bool_], count: int, rng: np.random.Generator
) -> Examples:
    chosen = rng.choice(np.flatnonzero(tracks), count)
    rows, shares = [chosen], [quadrants(audio)[chosen]]
    for source in range(len(moods.sources)):
        entries = np.flatnonzero((moods.source == source) & (moods.part == part))
        if len(entries):
            drawn = rng.choice(entries, count, p=_balanced(moods.shares[entries]))
            rows.append(moods.row[drawn])
            shares.append(moods.shares[drawn])
    joined = np.concatenate(rows)
    return Examples(joined, with_focus(np.concatenate(shares), audio[joined]))


def _balanced(shares: Floats) -> NDArray[np.float64]:
    """Return weights that sum to 1: a mood's share in a row counts relative to its sum over all rows. Shape (n,)."""
    weights = (shares.astype(np.float64) / np.maximum(shares.sum(axis=0, dtype=np.float64), 1e-9)).sum(axis=1)
    return np.asarray(weights / weights.sum())


def _strength(audio: Floats, mood: str) -> Floats:
    return np.asarray(np.minimum.reduce([_above(audio, *condition) for condition in RULE[mood]]), np.float32)


def _above(audio: Floats, name: str, sign: int, threshold: float) -> Floats:
    return _sigmoid(sign * (audio[:, AUDIO_NAMES.index(name)] - threshold) / WIDTHS.get(name, 0.02))


def _soft_median(values: Floats) -> Floats:
    return _sigmoid((values - np.median(values)) / QUADRANT_WIDTH)


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -50, 50))), np.float32)


def _join(others: NDArray[Any], focus: NDArray[Any], limit: float) -> Floats:
    """Return the probabilities (n, 5) from shares of four moods (n, 4) and that of focus (n,), at most `limit`."""
    limited = np.minimum(focus, limit)[:, None]
    return np.asarray(np.hstack([others * (1 - limited), limited]), np.float32)
