"""Export of the ranker part: the network with its preprocessing of the context as one ONNX graph."""

import numpy as np
import torch
from torch import Tensor, nn

from musix_exporter import onnx_graphs
from musix_exporter.bundle_writer import PartWriter
from musix_exporter.part import PARITY_CASES, ParityInputs, Part, max_abs_error
from musix_runtime.models import ranker
from musix_runtime.models.ranker import COMPONENTS
from musix_trainer.models.ranker.network import RankerNetwork
from musix_trainer.run import Run


class _Score(nn.Module):
    """The network with a score in 0..1 as its output."""

    def __init__(self, network: RankerNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, components: Tensor, context: Tensor) -> Tensor:
        return torch.sigmoid(self.network.rows(components, context))


def convert(run: Run, writer: PartWriter) -> None:
    """Write the ranker part."""
    ports = {"components": torch.zeros(2, 3, len(COMPONENTS)), "context": torch.zeros(2, 2)}
    graph = onnx_graphs.from_torch(_Score(run.ranker.network), ports, "score")
    writer.add_bytes("model.onnx", onnx_graphs.to_bytes(graph))


def _parity(inputs: ParityInputs) -> float:
    """Compare scores of random components, at every hour and without one."""
    rng, worst = inputs.rng, 0.0
    for hour in (*range(24), np.nan):
        components = rng.random((1, PARITY_CASES // 8, len(COMPONENTS)), np.float32)
        context = np.array([[rng.integers(0, 500), hour]], np.float32)
        models = inputs.run.ranker.runtime(), inputs.engine.ranker
        native, converted = (model.scores(components, context) for model in models)
        worst = max(worst, max_abs_error(native, converted))
    return worst


PART = Part(
    ranker.PART,
    convert,
    parity=_parity,
    native=lambda run: run.ranker.runtime(),
    golden_tolerance=1e-5,  # scores have 6 digits: a little more than the rounding error
)
