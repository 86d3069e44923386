"""Declarations of the parts of a training run. A part declares its training and its loader once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from musix_runtime.models.arrays import Floats
from musix_runtime.models.features import AUDIO
from musix_trainer.data.impressions import Impressions
from musix_trainer.data.interactions import Interactions
from musix_trainer.data.moods import Moods
from musix_trainer.data.tracks import Tracks
from musix_trainer.recipe import Recipe


class Model(Protocol):
    """A trained model that writes itself into a new folder."""

    def save(self, path: Path) -> None: ...


M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class Training:
    """The data that a part is trained on, and the models of the parts before it, by name."""

    recipe: Recipe
    catalogue: Tracks
    train: Interactions
    validation: Interactions
    test: Interactions
    impressions: Impressions | None
    models: Mapping[str, Any]
    moods: Moods | None = None

    @cached_property
    def audio(self) -> Floats:
        """Return the audio features of the catalogue. Shape (tracks, 12)."""
        return np.ascontiguousarray(self.catalogue.inputs[:, : len(AUDIO)])

    @cached_property
    def classified(self) -> Tracks:
        """Return the catalogue, in which each recording without a family is of the genre model's most probable one."""
        rows = np.flatnonzero(~self.catalogue.families.any(axis=1))
        if not len(rows):
            return self.catalogue
        confidence = self.models["genre"].confidence(self.catalogue.inputs[rows], *self.catalogue.texts(rows))
        families = self.catalogue.families.copy()
        families[rows, confidence.argmax(axis=1)] = True
        return replace(self.catalogue, families=families)


@dataclass(frozen=True)
class Part(Generic[M]):
    """A part of a run, with the name of the bundle's part.

    `train` returns the model and its sections of the quality card. `load` reads the folder that the model's `save`
    wrote. `quality_keys` are the keys of the metrics in these sections, for gates; `inapplicable` returns those of them
    that a quality card cannot have, as they are of another variant of the model. `floors` has metrics with the key of a
    simple baseline each: a build fails when a metric is below its baseline.
    """

    name: str
    train: Callable[[Training], tuple[M, dict[str, Any]]]
    load: Callable[[Path, Recipe], M]
    quality_keys: frozenset[str] = frozenset()
    floors: Mapping[str, str] = field(default_factory=dict)
    inapplicable: Callable[[dict[str, Any]], frozenset[str]] = lambda card: frozenset()
