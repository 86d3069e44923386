"""The mood part: a small network that approximates the mood rule from the 12 audio features."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from musix_runtime.models.arrays import Floats
from musix_runtime.models.features import AUDIO, AUDIO_NAMES
from musix_runtime.models.mood import MOODS
from musix_trainer import recipe
from musix_trainer.data import split
from musix_trainer.evaluation import metrics
from musix_trainer.models import networks
from musix_trainer.part import Part, Training
from musix_trainer.quality import keys


def rule(audio: Floats) -> NDArray[np.bool_]:
    """Return the moods of each track by thresholds: several, one or none. `audio` (n, 12). Shape (n, 5)."""
    values = dict(zip(AUDIO_NAMES, audio.T, strict=True))
    moods = {
        "happy": (values["valence"] > 0.7) & (values["energy"] > 0.7),
        "sad": values["valence"] < 0.4,
        "energetic": (values["energy"] > 0.8) & (values["danceability"] > 0.7),
        "calm": (values["tempo"] < 100) & (values["acousticness"] > 0.5),
        "focus": (values["instrumentalness"] > 0.6) & (values["speechiness"] < 0.1),
    }
    return np.stack([moods[mood] for mood in MOODS], axis=1)


class MoodNetwork(nn.Module):
    """Network from raw audio features to the logits of the moods: median imputation, scaling, perceptron."""

    median: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, hidden: tuple[int, int], dropout: tuple[float, float]) -> None:
        super().__init__()
        for name in ("median", "mean", "scale"):
            self.register_buffer(name, torch.ones(len(AUDIO)))
        self.layers = networks.perceptron(len(AUDIO), hidden, len(MOODS), dropout)

    def forward(self, audio: Tensor) -> Tensor:
        complete = torch.where(torch.isnan(audio), self.median, audio)
        logits: Tensor = self.layers((complete - self.mean) / self.scale)
        return logits


@dataclass(frozen=True)
class MoodModel:
    """The trained network, in eval mode."""

    network: MoodNetwork

    def probabilities(self, audio: Floats) -> Floats:
        """Return the probability of each mood, computed by PyTorch. `audio` (n, 12), NaN = missing. Shape (n, 5)."""
        with torch.no_grad():
            return np.asarray(torch.softmax(self.network(torch.from_numpy(audio)), dim=1).numpy(), np.float32)

    def save(self, path: Path) -> None:
        """Write the model into a new folder."""
        networks.save(self.network, path)

    @classmethod
    def load(cls, path: Path, settings: recipe.Mood) -> "MoodModel":
        """Read a model that `save` wrote."""
        network = MoodNetwork(settings.hidden, settings.dropout)
        networks.load(network, path)
        return cls(network)


def train(audio: Floats, settings: recipe.Mood, seed: int) -> tuple[MoodModel, dict[str, Any]]:
    """Train on the tracks that have a mood by the rule; the target of a track is shared equally by its moods."""
    moods = rule(audio)
    rows = np.flatnonzero(moods.any(axis=1))
    parts = split.assign(len(rows), settings.validation, 0, seed)
    train_rows, held_out = rows[parts == split.TRAIN], rows[parts == split.VALIDATION]
    target = (moods / np.maximum(moods.sum(axis=1, keepdims=True), 1)).astype(np.float32)
    torch.manual_seed(seed)
    network = MoodNetwork(settings.hidden, settings.dropout)
    train_audio = audio[train_rows]
    network.median = torch.from_numpy(np.median(train_audio, axis=0))
    network.mean = torch.from_numpy(train_audio.mean(axis=0))
    network.scale = torch.from_numpy(np.maximum(train_audio.std(axis=0), 1e-6))
    inputs, targets = torch.from_numpy(audio), torch.from_numpy(target)
    best_epoch = networks.fit(
        network,
        nn.functional.cross_entropy,
        (inputs[train_rows], targets[train_rows]),
        (inputs[held_out], targets[held_out]),
        learning_rate=settings.learning_rate,
        batch=settings.batch,
        epochs=settings.epochs,
        patience=settings.patience,
        seed=seed,
        part="mood",
    )
    model = MoodModel(network)
    return model, _measure(model, audio[held_out], moods[held_out], best_epoch, len(audio) - len(rows))


def _measure(
    model: MoodModel, audio: Floats, moods: metrics.Truth, best_epoch: int, without_mood: int
) -> dict[str, Any]:
    probabilities = model.probabilities(audio)
    chosen = probabilities.argmax(axis=1)
    right = moods[np.arange(len(moods)), chosen]
    by_mood = {mood: float(right[chosen == i].mean()) if (chosen == i).any() else None for i, mood in enumerate(MOODS)}
    return {
        "recordings_without_rule_mood": without_mood,
        "validation_recordings": len(audio),
        "rule_agreement": float(right.mean()),
        "rule_macro_f1": metrics.macro_f1(probabilities, moods),
        "rule_agreement_by_mood": by_mood,
        "best_epoch": best_epoch,
    }


def _train_part(training: Training) -> tuple[MoodModel, dict[str, Any]]:
    model, card = train(training.audio, training.recipe.mood, training.recipe.seed)
    return model, {"mood": card}


QUALITY_KEYS = (
    keys("mood", ("recordings_without_rule_mood", "validation_recordings", "best_epoch"))
    | keys("mood", ("rule_agreement", "rule_macro_f1"))
    | keys("mood.rule_agreement_by_mood", MOODS)
)
PART = Part("mood", _train_part, lambda path, recipe: MoodModel.load(path, recipe.mood), QUALITY_KEYS)
