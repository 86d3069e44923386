"""The artists part: the tracks of each primary artist by popularity, and the artists that are heard together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from musix_runtime.models.arrays import Floats, Rows
from musix_runtime.models.artists import Artists
from musix_trainer import array_store, recipe
from musix_trainer.data.interactions import Interactions
from musix_trainer.data.tracks import Tracks
from musix_trainer.models.item_stats import popularity_order
from musix_trainer.part import Part, Training

CHUNK = 1024  # artists that are compared with all others at once


@dataclass(frozen=True)
class ArtistsModel(Artists):
    """The runtime's artists part, which a run can store."""

    def save(self, path: Path) -> None:
        """Write the model into a new folder."""
        array_store.save(path, vars(self))

    @classmethod
    def load(cls, path: Path) -> "ArtistsModel":
        """Read a model that `save` wrote."""
        return cls(**array_store.load(path))


def train(catalogue: Tracks, data: Interactions, settings: recipe.Artists) -> ArtistsModel:
    """Order the tracks of each artist by listeners, then by popularity, and find its most similar artists."""
    artists = catalogue.artist_numbers
    order = popularity_order(catalogue, np.bincount(data.row, minlength=len(catalogue)))
    rows, offsets, ranks = group_by_artist(artists, order)
    similar, similarities = _similar_artists(artists[data.row], data.listener, len(offsets) - 1, settings)
    return ArtistsModel(
        track_artists=artists.astype(np.int32),
        ranks=ranks.astype(np.int32),
        offsets=offsets,
        rows=rows.astype(np.int32),
        similar=similar,
        similarities=similarities,
    )


def group_by_artist(artists: Rows, order: Rows) -> tuple[Rows, NDArray[np.int64], Rows]:
    """Return the rows of each artist in the `order` (n,) of all rows, the offsets of the artists, and the rank of each
    row among those of its artist, 0 for the first. `artists` (n,) numbers the artist of each row."""
    rows = order[np.argsort(artists[order], kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(artists))]).astype(np.int64)
    ranks = np.empty(len(artists), np.int64)
    ranks[rows] = np.arange(len(rows)) - offsets[artists[rows]]
    return rows, offsets, ranks


def _similar_artists(
    artist: Rows, listener: Rows, count: int, settings: recipe.Artists
) -> tuple[NDArray[np.int32], Floats]:
    """Return the artists with most listeners in common, and the cosines with shrinkage: the number of common listeners
    / (root of the product of both numbers of listeners + shrinkage). Both (count, neighbours); padding has weight 0."""
    shape = (count, int(listener.max(initial=0)) + 1)
    heard = csr_matrix((np.ones(len(artist), np.float32), (artist, listener)), shape)
    heard.data[:] = 1  # pairs that occurred several times were added
    listeners = heard.T.tocsr()
    sizes = heard.getnnz(axis=1).astype(np.float64)
    similar = np.repeat(np.arange(count, dtype=np.int32)[:, None], settings.neighbours, axis=1)
    similarities = np.zeros(similar.shape, np.float32)
    for start in range(0, count, CHUNK):
        common = (heard[start : start + CHUNK] @ listeners).tocoo()
        first, second = common.row.astype(np.int64) + start, common.col
        weights = common.data / (np.sqrt(sizes[first] * sizes[second]) + settings.shrinkage)
        best = np.lexsort((second, -weights, first))
        best = best[first[best] != second[best]]
        first, second, weights = first[best], second[best], weights[best]
        ranks = np.arange(len(first)) - np.searchsorted(first, first)
        kept = ranks < settings.neighbours
        similar[first[kept], ranks[kept]] = second[kept]
        similarities[first[kept], ranks[kept]] = weights[kept]
    return similar, similarities


def _train_part(training: Training) -> tuple[ArtistsModel, dict[str, Any]]:
    return train(training.catalogue, training.train, training.recipe.artists), {}


PART = Part("artists", _train_part, lambda path, recipe: ArtistsModel.load(path))
