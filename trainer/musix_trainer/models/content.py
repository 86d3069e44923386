"""The content part: a 28-d vector for each recording, of 12 audio, 10 genre, 5 mood and 1 popularity dimensions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from musix_runtime.models.arrays import Floats, unit
from musix_runtime.models.content import Content
from musix_runtime.models.features import AUDIO, INPUT_NAMES
from musix_runtime.models.index import Index
from musix_trainer import array_store, recipe
from musix_trainer.data.tracks import Tracks
from musix_trainer.part import Part, Training

GENRE_WIDTH = 10


@dataclass(frozen=True)
class ContentModel:
    """Content vectors of length 1, one for each recording. Shape (n, 28)."""

    vectors: Floats

    def runtime(self) -> Content:
        """Return the runtime's content part over these vectors."""
        return Content(Index(self.vectors))

    def save(self, path: Path) -> None:
        """Write the model into a new folder."""
        array_store.save(path, vars(self))

    @classmethod
    def load(cls, path: Path) -> "ContentModel":
        """Read a model that `save` wrote."""
        return cls(**array_store.load(path))


def train(catalogue: Tracks, moods: Floats, settings: recipe.Content) -> ContentModel:
    """Build the vectors from the catalogue and the mood part's probabilities, `moods` (n, 5).

    Each block is centred and scaled to a mean squared length of its squared weight; the vectors are scaled to length 1.
    """
    audio = catalogue.inputs[:, : len(AUDIO)]
    blocks = [
        (_standard(audio), settings.audio),
        (_genre_block(catalogue), settings.genre),
        (moods - moods.mean(axis=0), settings.mood),
        (_artist_popularity(catalogue)[:, None], settings.popularity),
    ]
    vectors = unit(np.column_stack([_scaled(block, weight) for block, weight in blocks]))
    return ContentModel(vectors)


def _standard(values: Floats) -> Floats:
    return np.asarray((values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-6), np.float32)


def _scaled(block: Floats, weight: float) -> Floats:
    length = np.sqrt((block.astype(np.float64) ** 2).sum(axis=1).mean())
    return np.asarray(block * (weight / max(length, 1e-6)), np.float32)


def _genre_block(catalogue: Tracks) -> Floats:
    """Return the first 10 principal components of the label distributions, padded with zeros. Shape (n, 10)."""
    shares = catalogue.families / catalogue.families.sum(axis=1, keepdims=True)
    width = min(GENRE_WIDTH, shares.shape[1], len(shares))
    block = np.zeros((len(shares), GENRE_WIDTH), np.float32)
    block[:, :width] = PCA(width, svd_solver="full").fit_transform(shares)
    return block


def _artist_popularity(catalogue: Tracks) -> Floats:
    codes = catalogue.artist_numbers
    popularity = catalogue.inputs[:, INPUT_NAMES.index("popularity")]
    mean = np.bincount(codes, popularity) / np.bincount(codes)
    return _standard(mean[codes][:, None].astype(np.float32))[:, 0]


def _train_part(training: Training) -> tuple[ContentModel, dict[str, Any]]:
    moods = training.models["mood"].probabilities(training.audio)
    return train(training.classified, moods, training.recipe.content), {}


PART = Part("content", _train_part, lambda path, recipe: ContentModel.load(path))
