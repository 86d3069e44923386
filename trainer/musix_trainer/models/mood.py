"""The mood part: a small network from the 12 audio features to the moods, taught by the rule or by perceived moods."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from musix_runtime.errors import TableError
from musix_runtime.models.arrays import Floats, Rows
from musix_runtime.models.features import AUDIO
from musix_runtime.models.mood import MOODS
from musix_trainer import progress, recipe
from musix_trainer.data import split
from musix_trainer.data.moods import PERCEIVED, Moods
from musix_trainer.evaluation import metrics
from musix_trainer.models import networks
from musix_trainer.models.mood_targets import FOCUS_LIMITS, Examples, perceived_examples, rule, rule_examples
from musix_trainer.part import Part, Training
from musix_trainer.quality import keys

N_PERCEIVED = len(PERCEIVED)


class MoodNetwork(nn.Module):
    """Network from raw audio features to the probabilities of the moods: median imputation, scaling, perceptron.

    Focus has a head of its own, with at most `focus_limit`, so that it hides no clear mood; the others share the rest.
    """

    median: Tensor
    mean: Tensor
    scale: Tensor
    focus_limit: Tensor

    def __init__(self, hidden: tuple[int, int], dropout: tuple[float, float]) -> None:
        super().__init__()
        for name in ("median", "mean", "scale"):
            self.register_buffer(name, torch.ones(len(AUDIO)))
        self.register_buffer("focus_limit", torch.tensor(1.0))
        self.layers = networks.perceptron(len(AUDIO), hidden, len(MOODS), dropout)

    def forward(self, audio: Tensor) -> Tensor:
        complete = torch.where(torch.isnan(audio), self.median, audio)
        logits = self.layers((complete - self.mean) / self.scale)
        focus = self.focus_limit * torch.sigmoid(logits[:, N_PERCEIVED:])
        return torch.cat([torch.softmax(logits[:, :N_PERCEIVED], dim=1) * (1 - focus), focus], dim=1)


@dataclass(frozen=True)
class MoodModel:
    """The trained network, in eval mode."""

    network: MoodNetwork

    def probabilities(self, audio: Floats) -> Floats:
        """Return the probability of each mood, computed by PyTorch. `audio` (n, 12), NaN = missing. Shape (n, 5)."""
        with torch.no_grad():
            return np.asarray(self.network(torch.from_numpy(audio)).numpy(), np.float32)

    def save(self, path: Path) -> None:
        """Write the model into a new folder."""
        networks.save(self.network, path)

    @classmethod
    def load(cls, path: Path, settings: recipe.Mood) -> "MoodModel":
        """Read a model that `save` wrote."""
        network = MoodNetwork(settings.hidden, settings.dropout)
        networks.load(network, path)
        return cls(network)


def train(
    audio: Floats, settings: recipe.Mood, seed: int, moods: Moods | None = None
) -> tuple[MoodModel, dict[str, Any]]:
    """Train on the perceived moods, or on the rule without any, and return the model and its section of the card.

    `audio` (n, 12) are the features of the catalogue, without missing values.
    """
    if moods:
        examples = perceived_examples(audio, moods, settings.examples, settings.validation, seed)
    else:
        examples = rule_examples(audio, settings.validation, seed)
    teacher = "perceived" if moods else "rule"
    torch.manual_seed(seed)
    network = MoodNetwork(settings.hidden, settings.dropout)
    network.focus_limit = torch.tensor(FOCUS_LIMITS[teacher])
    best_epoch = _fit(network, audio, examples, settings, seed)
    model = MoodModel(network)
    card = _measure_perceived(model, audio, moods) if moods else _measure_rule(model, audio, examples[1].rows)
    return model, {"teacher": teacher, "best_epoch": best_epoch, **card}


def _fit(
    network: MoodNetwork, audio: Floats, examples: tuple[Examples, Examples], settings: recipe.Mood, seed: int
) -> int:
    """Train `network` in place, and return its best epoch."""
    network.median = torch.from_numpy(np.median(audio, axis=0))
    network.mean = torch.from_numpy(audio.mean(axis=0))
    network.scale = torch.from_numpy(np.maximum(audio.std(axis=0), 1e-6))
    inputs = torch.from_numpy(audio)
    train_data, held_out = ((inputs[each.rows], torch.from_numpy(each.targets)) for each in examples)
    return networks.fit(
        network,
        _cross_entropy,
        train_data,
        held_out,
        learning_rate=settings.learning_rate,
        batch=settings.batch,
        epochs=settings.epochs,
        patience=settings.patience,
        seed=seed,
        part="mood",
    )


def _cross_entropy(probabilities: Tensor, targets: Tensor) -> Tensor:
    return -(targets * torch.log(probabilities.clamp_min(1e-7))).sum(dim=1).mean()


def _measure_rule(model: MoodModel, audio: Floats, held_out: Rows) -> dict[str, Any]:
    moods = rule(audio)
    rows = held_out[moods[held_out].any(axis=1)]
    if not len(rows):
        raise TableError(
            "mood: expected audio features of the tracks by which the rule gives some of them a mood, found none of"
            f" {len(held_out):,} with one"
        )
    probabilities, truth = model.probabilities(audio[rows]), moods[rows]
    chosen = probabilities.argmax(axis=1)
    right = truth[np.arange(len(truth)), chosen]
    by_mood = {mood: float(right[chosen == i].mean()) if (chosen == i).any() else None for i, mood in enumerate(MOODS)}
    return {
        "recordings_without_rule_mood": int((~moods.any(axis=1)).sum()),
        "validation_recordings": len(rows),
        "rule_agreement": float(right.mean()),
        "rule_macro_f1": metrics.macro_f1(probabilities, truth),
        "rule_agreement_by_mood": by_mood,
    }


def _measure_perceived(model: MoodModel, audio: Floats, moods: Moods) -> dict[str, Any]:
    rows, truth = moods.test()
    shares = perceived_shares(model.probabilities(audio[rows]))
    return {
        "perceived_examples": int((moods.part == split.TRAIN).sum()),
        "perceived_test_recordings": len(rows),
        "perceived_macro_f1": metrics.macro_f1(shares, truth),
        "perceived_ece": metrics.calibration_error(shares, truth),
    }


def perceived_shares(probabilities: Floats) -> Floats:
    """Return the shares of the four perceived moods, from probabilities of the five (n, 5). Shape (n, 4)."""
    perceived = probabilities[:, :N_PERCEIVED]
    return np.asarray(perceived / perceived.sum(axis=1, keepdims=True), np.float32)


def _train_part(training: Training) -> tuple[MoodModel, dict[str, Any]]:
    settings, moods = training.recipe.mood, training.moods
    taught = moods if settings.teacher != "rule" else None
    if moods:
        reason = f'mood.teacher is "{settings.teacher}"' if settings.teacher else "there is a moods table"
    else:
        reason = "there is no moods table"
    progress.say(f"mood: teacher: {'perceived moods' if taught else 'the rule'}, as {reason}")
    model, card = train(training.audio, settings, training.recipe.seed, taught)
    return model, {"mood": card}


def inapplicable(card: dict[str, Any]) -> frozenset[str]:
    """Return the keys that a quality card lacks because its model has the other teacher."""
    return RULE_KEYS if card["mood"]["teacher"] == "perceived" else PERCEIVED_KEYS


RULE_KEYS = keys(
    "mood", ("recordings_without_rule_mood", "validation_recordings", "rule_agreement", "rule_macro_f1")
) | keys("mood.rule_agreement_by_mood", MOODS)
PERCEIVED_KEYS = keys(
    "mood", ("perceived_examples", "perceived_test_recordings", "perceived_macro_f1", "perceived_ece")
)
QUALITY_KEYS = keys("mood", "best_epoch") | RULE_KEYS | PERCEIVED_KEYS
PART = Part(
    "mood", _train_part, lambda path, recipe: MoodModel.load(path, recipe.mood), QUALITY_KEYS, inapplicable=inapplicable
)
