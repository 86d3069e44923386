"""The catalog part: statistics of each recording that need no model, such as freshness and popularity."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import Floats, Rows
from musix_runtime.models.features import INPUT_NAMES
from musix_runtime.models.mood import MOODS
from musix_trainer import array_store, recipe
from musix_trainer.data.interactions import Interactions
from musix_trainer.data.tracks import Tracks
from musix_trainer.models.collab import DAY
from musix_trainer.part import Part, Training
from musix_trainer.quality import keys


@dataclass(frozen=True)
class ItemStats:
    """Statistics (n,) of the recordings. `popular`: the most popular rows, best first, one of each artist at first."""

    families: NDArray[np.uint32]
    moods: NDArray[np.uint8]
    freshness: Floats
    popularity: Floats
    popular: NDArray[np.int32]

    def save(self, path: Path) -> None:
        """Write the model into a new folder."""
        array_store.save(path, vars(self))

    @classmethod
    def load(cls, path: Path) -> "ItemStats":
        """Read a model that `save` wrote."""
        return cls(**array_store.load(path))


def train(catalogue: Tracks, moods: Floats, data: Interactions, settings: recipe.CatalogSection) -> ItemStats:
    """Compute the statistics.

    Freshness halves with each half-life before the newest release, and is 0 for an unknown date. Popularity is the
    logarithm of the number of listeners, relative to the largest.
    """
    popularity, popular = popularity_arrays(catalogue, data, settings)
    released = catalogue.frame["release_date"].to_numpy().astype(np.float64)
    age = (np.nanmax(released) - released) / DAY if np.isfinite(released).any() else released
    bits = (catalogue.families.astype(np.uint32) << np.arange(len(catalogue.labels), dtype=np.uint32)).sum(axis=1)
    return ItemStats(
        families=bits.astype(np.uint32),
        moods=moods.argmax(axis=1).astype(np.uint8),
        freshness=np.nan_to_num(0.5 ** (age / settings.freshness_half_life)).astype(np.float32),
        popularity=popularity,
        popular=popular,
    )


def popularity_arrays(
    catalogue: Tracks, data: Interactions, settings: recipe.CatalogSection
) -> tuple[Floats, NDArray[np.int32]]:
    """Return `popularity` and `popular` by these interactions."""
    listeners = np.bincount(data.row, minlength=len(catalogue))
    order = popularity_order(catalogue, listeners)
    _, firsts = np.unique(catalogue.artist_numbers[order], return_index=True)
    popular = np.concatenate([order[np.sort(firsts)], np.delete(order, firsts)])[: settings.popular]
    popularity = np.log1p(listeners) / np.log1p(listeners.max())
    return popularity.astype(np.float32), popular.astype(np.int32)


def popularity_order(catalogue: Tracks, listeners: NDArray[np.int64]) -> Rows:
    """Return the rows by their number of `listeners` (n,), then by the popularity in the table, most popular first."""
    table_popularity = catalogue.inputs[:, INPUT_NAMES.index("popularity")]
    return np.lexsort((np.arange(len(catalogue)), -table_popularity, -listeners))


def _measure(stats: ItemStats, catalogue: Tracks) -> dict[str, Any]:
    """Return the share of the recordings with each mood, and that of the family which most recordings have."""
    moods = np.bincount(stats.moods, minlength=len(MOODS)) / len(catalogue)
    families = catalogue.families.mean(axis=0)
    return {
        "mood_shares": dict(zip(MOODS, moods.tolist(), strict=True)),
        "largest_family": catalogue.labels[int(families.argmax())],
        "largest_family_share": float(families.max()),
    }


def _train_part(training: Training) -> tuple[ItemStats, dict[str, Any]]:
    catalogue = training.classified
    moods = training.models["mood"].probabilities(training.audio)
    stats = train(catalogue, moods, training.train, training.recipe.catalog)
    return stats, {"catalog": _measure(stats, catalogue)}


QUALITY_KEYS = keys("catalog.mood_shares", MOODS) | keys("catalog", "largest_family_share")
PART = Part("catalog", _train_part, lambda path, recipe: ItemStats.load(path), QUALITY_KEYS)
