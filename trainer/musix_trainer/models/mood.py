"""Mood: a small network that learns the mood rule softly, from the 12 audio features."""

import io
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
    """Which moods the thresholds give each track; a track can have several, or none. `audio` (n, 12). Shape (n, 5)."""
    of = dict(zip(AUDIO_NAMES, audio.T, strict=True))
    moods = {
        "happy": (of["valence"] > 0.7) & (of["energy"] > 0.7),
        "sad": of["valence"] < 0.4,
        "energetic": (of["energy"] > 0.8) & (of["danceability"] > 0.7),
        "calm": (of["tempo"] < 100) & (of["acousticness"] > 0.5),
        "focus": (of["instrumentalness"] > 0.6) & (of["speechiness"] < 0.1),
    }
    return np.stack([moods[mood] for mood in MOODS], axis=1)


class MoodNetwork(nn.Module):
    """From raw audio features to the logits of the moods: median for missing values, scaling, perceptron."""

    median: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, hidden: tuple[int, int], dropout: tuple[float, float]) -> None:
        super().__init__()
        for name in ("median", "mean", "scale"):
            self.register_buffer(name, torch.ones(len(AUDIO)))
        self.layers = networks.perceptron(len(AUDIO), hidden, len(MOODS), dropout)

    def forward(self, audio: Tensor) -> Tensor:
        whole = torch.where(torch.isnan(audio), self.median, audio)
        logits: Tensor = self.layers((whole - self.mean) / self.scale)
        return logits


@dataclass(frozen=True)
class MoodModel:
    """The trained network, in eval mode."""

    network: MoodNetwork

    def probabilities(self, audio: Floats) -> Floats:
        """Probability of each mood, by PyTorch. `audio` (n, 12), NaN = missing. Shape (n, 5)."""
        with torch.no_grad():
            return np.asarray(torch.softmax(self.network(torch.from_numpy(audio)), dim=1).numpy(), np.float32)

    def save(self, path: Path) -> None:
        """Write the model into a new folder."""
        path.mkdir(parents=True)
        content = io.BytesIO()  # PyTorch hides what is wrong with a disk
        torch.save(self.network.state_dict(), content)
        (path / "network.pt").write_bytes(content.getvalue())

    @classmethod
    def load(cls, path: Path, settings: recipe.Mood) -> "MoodModel":
        """Read a model that `save` wrote."""
        network = MoodNetwork(settings.hidden, settings.dropout)
        network.load_state_dict(torch.load(path / "network.pt", weights_only=True))
        return cls(network.eval())


def train(audio: Floats, settings: recipe.Mood, seed: int) -> tuple[MoodModel, dict[str, Any]]:
    """Train on the tracks that the rule gives a mood; a track's moods share its label equally."""
    moods = rule(audio)
    rows = np.flatnonzero(moods.any(axis=1))
    parts = split.assign(len(rows), settings.validation, 0, seed)
    train_rows, held_out = rows[parts == split.TRAIN], rows[parts == split.VALIDATION]
    target = (moods / np.maximum(moods.sum(axis=1, keepdims=True), 1)).astype(np.float32)
    torch.manual_seed(seed)
    network = MoodNetwork(settings.hidden, settings.dropout)
    seen = audio[train_rows]
    network.median = torch.from_numpy(np.median(seen, axis=0))
    network.mean = torch.from_numpy(seen.mean(axis=0))
    network.scale = torch.from_numpy(np.maximum(seen.std(axis=0), 1e-6))
    inputs, targets = torch.from_numpy(audio), torch.from_numpy(target)
    best = networks.fit(
        network,
        nn.functional.cross_entropy,
        (inputs[train_rows], targets[train_rows]),
        (inputs[held_out], targets[held_out]),
        learning_rate=settings.learning_rate,
        batch=settings.batch,
        epochs=settings.epochs,
        patience=settings.patience,
        seed=seed,
        label="mood: epochs",
    )
    model = MoodModel(network)
    return model, _measure(model, audio[held_out], moods[held_out], best, len(audio) - len(rows))


def _measure(model: MoodModel, audio: Floats, moods: metrics.Truth, best: int, without: int) -> dict[str, Any]:
    found = model.probabilities(audio)
    chosen = found.argmax(axis=1)
    right = moods[np.arange(len(moods)), chosen]
    of_each = {mood: float(right[chosen == i].mean()) if (chosen == i).any() else None for i, mood in enumerate(MOODS)}
    return {
        "recordings_without_rule_mood": without,
        "validation_recordings": len(audio),
        "rule_agreement": float(right.mean()),
        "rule_macro_f1": metrics.macro_f1(found, moods),
        "rule_agreement_by_mood": of_each,
        "best_epoch": best,
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
