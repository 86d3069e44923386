"""Training examples of the genre ensemble: recordings with their families and their weights."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import Floats
from musix_runtime.models.genre import artist_key
from musix_trainer.data import split
from musix_trainer.data.tables import text_codes
from musix_trainer.data.tracks import Tracks
from musix_trainer.evaluation import metrics


@dataclass(frozen=True)
class Examples:
    """Recordings of one part of a split; every field has an entry for each."""

    inputs: Floats  # (n, 15), NaN = missing
    artists: list[list[str]]
    titles: list[str]  # empty = missing
    primary_artists: list[str]
    truth: metrics.Truth  # (n, families)
    weight: Floats  # (n,)

    @property
    def labels(self) -> Floats:
        """Return the label distribution of each recording: 1, shared equally by its families. Shape (n, families)."""
        return np.asarray(self.truth / self.truth.sum(axis=1, keepdims=True))

    def first(self, count: int) -> "Examples":
        """Return the first `count` recordings."""
        return Examples(**{name: values[:count] for name, values in vars(self).items()})

    def artist_keys(self) -> list[set[str]]:
        """Return the keys of each recording's artists."""
        return [{artist_key(name) for name in names} for names in self.artists]

    def artist_names(self) -> dict[str, str]:
        """Return the first spelling of each artist's name, by artist key."""
        names: dict[str, str] = {}
        for artists in self.artists:
            for name in artists:
                names.setdefault(artist_key(name), name)
        names.pop("", None)
        return names


def split_examples(catalogue: Tracks, parts: NDArray[np.int8]) -> tuple[Examples, Examples]:
    """Return the examples that `parts` (n,) assigns to TRAIN and to VALIDATION."""
    primary = catalogue.primary_artists()
    weight = artist_weight(primary, np.isin(parts, (split.TRAIN, split.VALIDATION)))

    def examples(part: int) -> Examples:
        rows = np.flatnonzero(parts == part)
        artists, titles = catalogue.texts(rows)
        primary_artists = [primary[row] for row in rows]
        return Examples(
            catalogue.inputs[rows], artists, titles, primary_artists, catalogue.families[rows], weight[rows]
        )

    return examples(split.TRAIN), examples(split.VALIDATION)


def artist_weight(artists: list[str], counted: NDArray[np.bool_]) -> Floats:
    """Return the weight of each recording by its primary artist: 1 / sqrt(the artist's recordings in `counted` (n,)).

    An artist that is unknown at serving has few recordings, as a rule: artists with many must not dominate. Shape (n,).
    """
    codes = text_codes(artists)
    counts = np.bincount(codes[counted], minlength=codes.max() + 1)
    return np.asarray(1 / np.sqrt(np.maximum(counts, 1))[codes], np.float32)
