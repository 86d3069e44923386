"""Tempo: the mean tempo of the tracks of each family."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musix_runtime.models.arrays import Floats
from musix_runtime.models.features import AUDIO_NAMES
from musix_trainer import array_store
from musix_trainer.part import Part, Training
from musix_trainer.quality import keys


@dataclass(frozen=True)
class TempoModel:
    """Mean tempos. Shape (families,)."""

    means: Floats

    def save(self, path: Path) -> None:
        """Write the model into a new folder."""
        array_store.save(path, vars(self))


def train(training: Training) -> tuple[TempoModel, dict[str, Any]]:
    tempo = training.audio[:, AUDIO_NAMES.index("tempo")]
    means = np.array([tempo[family].mean() for family in training.catalogue.families.T], np.float32)
    return TempoModel(means), {"tempo": {"families": len(means)}}


PART = Part("tempo", train, lambda path, recipe: TempoModel(**array_store.load(path)), keys("tempo", "families"))
