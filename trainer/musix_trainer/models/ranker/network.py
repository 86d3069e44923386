"""The ranker network, and the trained model that keeps it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from musix_runtime.models.arrays import Floats
from musix_runtime.models.ranker import COMPONENTS, Ranker
from musix_trainer import recipe
from musix_trainer.models import networks

SIMD_WIDTH = 16  # largest number of floats that a processor computes at once
ACTIVITY_SCALE = math.log1p(100)  # the listener's activity is log1p(history length) divided by this


class RankerNetwork(nn.Module):
    """Network from components (lists, n, 5) and context (lists, n, 2) or (lists, 2) to a logit (lists, n, 1).

    The context is the length of the listener's history, and the hour of the day or NaN.
    """

    def __init__(self, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.layers = networks.perceptron(len(COMPONENTS) + 3, hidden, 1)
        self.register_buffer("blend", torch.zeros(len(COMPONENTS)))

    def start_at(self, weights: Floats, bias: float) -> None:
        """Set the network to the linear function `weights` (5,) @ components + bias, and remember it as `blend`.

        Components and weights are not negative, so one unit of each hidden layer passes the sum through its ReLU. The
        other units stay as they are, without an effect on the output until the training gives them one.
        """
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        with torch.no_grad():
            cast(Tensor, self.blend).copy_(torch.from_numpy(weights))
            for layer in linear[:-1]:
                layer.weight[0], layer.bias[0] = 0, 0
            linear[0].weight[0, : len(COMPONENTS)] = torch.from_numpy(weights)
            for layer in linear[1:-1]:
                layer.weight[0, 0] = 1
            linear[-1].weight[:], linear[-1].bias[:] = 0, bias
            linear[-1].weight[0, 0] = 1

    def forward(self, components: Tensor, context: Tensor) -> Tensor:
        return self.rows(components, context).reshape(*components.shape[:-1], 1)

    def rows(self, components: Tensor, context: Tensor) -> Tensor:
        """Return the logits of all candidates, list after list. Shape (lists * n, 1)."""
        history_length, hour = context[..., :1], context[..., 1:]
        # Each number fills a processor's vector by itself: otherwise the size of the batch would decide whether it is
        # computed in a vector or alone, and the last bits would depend on it.
        activity = torch.log1p(history_length * torch.ones(SIMD_WIDTH))[..., :1] / ACTIVITY_SCALE
        phase = torch.tensor([0.0, math.pi / 2]).repeat_interleave(SIMD_WIDTH)  # of sine and cosine
        clock = torch.sin(hour * torch.full((2 * SIMD_WIDTH,), 2 * math.pi / 24) + phase)[..., ::SIMD_WIDTH]
        clock = torch.where(torch.isnan(hour), 0.0, clock)
        # Components and context have separate products in the first layer: a context row that serves all candidates of
        # a list is computed once.
        first, *others = self.layers
        weights = cast(nn.Linear, first).weight
        situation = functional.linear(
            torch.cat([activity, clock], dim=-1), weights[:, len(COMPONENTS) :], cast(nn.Linear, first).bias
        )
        if context.ndim < components.ndim:
            situation = situation[:, None]
        hidden = components @ weights[:, : len(COMPONENTS)].T + situation
        rows = hidden.reshape(
            -1, weights.shape[0]
        )  # ONNX Runtime computes one product of a matrix, not one for each list
        for layer in others:
            rows = layer(rows)
        return rows


@dataclass(frozen=True)
class RankerModel:
    """The trained network, in eval mode."""

    network: RankerNetwork

    def run(self, outputs: None, feed: dict[str, Floats]) -> list[Floats]:
        """Return what the ONNX session of the exported graph returns, computed by PyTorch."""
        components, context = (torch.from_numpy(np.ascontiguousarray(feed[name])) for name in ("components", "context"))
        with torch.no_grad():
            return [np.asarray(torch.sigmoid(self.network.rows(components, context)).numpy())]

    @property
    def blend(self) -> dict[str, float]:
        """The weights of the linear function that the training began at, as shares of their sum, by component."""
        weights = cast(Tensor, self.network.blend).double().numpy()
        return dict(zip(COMPONENTS, (weights / max(weights.sum(), 1e-12)).round(6).tolist(), strict=True))

    def serving_blend(self, settings: recipe.Ranker) -> dict[str, float]:
        """Return the weights by which the runtime chooses the candidates that the network scores."""
        return settings.blend if isinstance(settings.blend, dict) else self.blend

    def runtime(self) -> Ranker:
        """Return the runtime's ranker, with PyTorch in place of ONNX Runtime."""
        return Ranker(self)

    def save(self, path: Path) -> None:
        """Write the model into a new folder."""
        networks.save(self.network, path)

    @classmethod
    def load(cls, path: Path, settings: recipe.Ranker) -> "RankerModel":
        """Read a model that `save` wrote."""
        network = RankerNetwork(settings.hidden)
        networks.load(network, path)
        return cls(network)
