"""Training of the ranker network on impressions, or on held-out interactions where there are none."""

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from musix_runtime.errors import TableError
from musix_runtime.models.arrays import Floats
from musix_runtime.models.ranker import COMPONENTS
from musix_runtime.models.retrieval import Retriever
from musix_trainer import recipe
from musix_trainer.data import split
from musix_trainer.data.impressions import Impressions
from musix_trainer.data.interactions import Interactions
from musix_trainer.models import networks
from musix_trainer.models.collab import CollabModel
from musix_trainer.models.ranker.examples import (
    TrainingExamples,
    derive_examples,
    examples_from_impressions,
    split_inputs,
)
from musix_trainer.models.ranker.linear import fit_linear
from musix_trainer.models.ranker.network import RankerModel, RankerNetwork

MIN_USERS = 20  # listeners, so that training and validation both have some


def train(
    retriever: Retriever,
    collab: CollabModel,
    impressions: Impressions | None,
    held_out: Interactions,
    settings: recipe.Ranker,
    seed: int,
) -> tuple[RankerModel, dict[str, Any]]:
    """Train on the impressions; without any, on the retriever's candidates against the held-out interactions.

    Raises TableError when `fit` does.
    """
    if impressions:
        examples = examples_from_impressions(retriever, collab, impressions, held_out.names, seed)
    else:
        examples = derive_examples(retriever, collab, held_out, settings, seed)
    model, card = fit(examples, settings, seed)
    return model, {"impressions_source": "table" if impressions else "derived"} | card


def fit(examples: TrainingExamples, settings: recipe.Ranker, seed: int) -> tuple[RankerModel, dict[str, Any]]:
    """Fit a linear function of the components to the examples, and then the network, which begins at it.

    Raises TableError when there are too few listeners, impressions of one kind only, or positive ones that no component
    tells from the others.
    """
    listeners, number = np.unique(examples.listener, return_inverse=True)
    _check_examples(examples, len(listeners))
    parts = split.assign(len(listeners), settings.validation, 0, seed)[number]
    validation = parts == split.VALIDATION
    torch.manual_seed(seed)
    network = RankerNetwork(settings.hidden)
    learned = _lists(examples, parts == split.TRAIN)
    weights, bias = fit_linear(_loss, learned[0], learned[2])
    _check_weights(weights, examples)
    network.start_at(weights, bias)
    best_epoch = networks.fit(
        network,
        _loss,
        learned,
        _lists(examples, validation),
        learning_rate=settings.learning_rate,
        batch=settings.batch,
        epochs=settings.epochs,
        patience=settings.patience,
        seed=seed,
        part="ranker",
    )
    if not np.isfinite(examples.inputs[:, -1]).any():
        _zero_clock_weights(network)
    model = RankerModel(network)
    card: dict[str, Any] = {
        "impressions": len(examples.positive),
        "positives": int(examples.positive.sum()),
        "best_epoch": best_epoch,
        "validation_auc": _aucs(model, examples.inputs[validation], examples.positive[validation], settings),
    }
    return model, card


def _zero_clock_weights(network: RankerNetwork) -> None:
    """Set the weights of the hour to 0: without any hour in training they would stay random."""
    with torch.no_grad():
        cast(nn.Linear, network.layers[0]).weight[:, -2:] = 0


def _lists(examples: TrainingExamples, selected: NDArray[np.bool_]) -> tuple[Tensor, Tensor, Tensor]:
    """Return components (lists, n, 5), context (lists, n, 2) and labels (lists, n, 1) of the selected examples.

    Lists are padded to the longest one; the label of padding is NaN.
    """
    _, number, sizes = np.unique(examples.list[selected], return_inverse=True, return_counts=True)
    order = np.argsort(number, kind="stable")
    position = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    inputs = np.zeros((len(sizes), sizes.max(initial=0), examples.inputs.shape[1]), np.float32)
    labels = np.full((*inputs.shape[:2], 1), np.nan, np.float32)
    inputs[number[order], position] = examples.inputs[selected][order]
    labels[number[order], position, 0] = examples.positive[selected][order]
    components, context = split_inputs(inputs)
    return torch.from_numpy(components), torch.from_numpy(context), torch.from_numpy(labels)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return a pointwise cross-entropy, of the probabilities, plus a listwise one, of their shares in the list.

    Both have the same optimum (Bai et al., Regression compatible listwise objectives, 2023). Labels of padding are NaN.
    """
    present = ~labels.isnan()
    pointwise = functional.binary_cross_entropy_with_logits(logits[present], labels[present])
    share = torch.where(present, labels, 0.0)
    share = share / share.sum(dim=1, keepdim=True).clamp(min=1)
    log_share = functional.logsigmoid(logits).masked_fill(~present, -torch.inf).log_softmax(dim=1)
    log_share = log_share.masked_fill(~present, 0)
    return pointwise - (share * log_share).sum() / (share.sum().clamp(min=1))


def _check_examples(examples: TrainingExamples, listeners: int) -> None:
    positives = int(examples.positive.sum())
    if listeners < MIN_USERS or not 0 < positives < len(examples.positive):
        raise TableError(
            f"ranker: expected impressions of at least {MIN_USERS} listeners, some positive and some negative, found"
            f" {len(examples.positive):,} of {listeners:,} listeners, {positives:,} of them positive; they are"
            " the table of feedback or, without it, made of the listening, which may hold too little"
        )


def _check_weights(weights: Floats, examples: TrainingExamples) -> None:
    """Raise TableError when all weights are 0: the ranker would give each track the same score."""
    if not weights.any():
        raise TableError(
            "ranker: expected impressions whose positive tracks have more of a component than the others"
            f" ({', '.join(COMPONENTS)}), found none in {len(examples.positive):,} impressions; they are the table of"
            " feedback, which can be left out of the recipe while it holds too little, or made of the listening"
        )


def _aucs(model: RankerModel, inputs: Floats, positive: NDArray[np.bool_], settings: recipe.Ranker) -> dict[str, float]:
    """Return the AUC of the network, the linear function that it began at, the blend and each component."""
    components, context = split_inputs(inputs)
    (scores,) = model.run(None, {"components": components[:, None], "context": context})
    by_scorer = {"network": scores[:, 0]} | dict(zip(COMPONENTS, components.T, strict=True))
    for name, blend in (("linear", model.blend), ("blend", model.serving_blend(settings))):
        by_scorer[name] = components @ np.array([blend[each] for each in COMPONENTS])
    return {name: float(roc_auc_score(positive, values)) for name, values in by_scorer.items()}
