"""Declarations of the parts that a training run consists of. A part declares its training and its loader once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from musix_runtime.models.arrays import Floats
from musix_runtime.models.features import AUDIO
from musix_trainer.data.impressions import Impressions
from musix_trainer.data.interactions import Interactions
from musix_trainer.data.tracks import Tracks
from musix_trainer.recipe import Recipe


class Model(Protocol):
    """A trained model that can write itself into a new folder."""

    def save(self, path: Path) -> None: ...


M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class Training:
    """What a part is trained on. `models` holds those of the parts before it, by name."""

    recipe: Recipe
    catalogue: Tracks
    train: Interactions
    validation: Interactions
    test: Interactions
    impressions: Impressions | None
    models: Mapping[str, Any]

    @cached_property
    def audio(self) -> Floats:
        """Audio features of the catalogue. Shape (tracks, 12)."""
        return np.ascontiguousarray(self.catalogue.inputs[:, : len(AUDIO)])


@dataclass(frozen=True)
class Part(Generic[M]):
    """A part of a run, which has the name of the bundle's part.

    `train` returns the model and the sections that it adds to the quality card. `load` reads what `save` of the model
    wrote into the part's folder of the run. `quality_keys` are the keys of the figures in these sections: gates may
    name them.
    """

    name: str
    train: Callable[[Training], tuple[M, dict[str, Any]]]
    load: Callable[[Path, Recipe], M]
    quality_keys: frozenset[str] = frozenset()
