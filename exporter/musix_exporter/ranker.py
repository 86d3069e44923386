"""Ranker: the network with its preprocessing of the context as one ONNX graph."""

import torch
from torch import Tensor, nn

from musix_exporter import onnx_graphs
from musix_exporter.bundle_writer import Files
from musix_runtime.models.ranker import COMPONENTS
from musix_trainer.models.ranker import RankerModel, RankerNetwork


class _Score(nn.Module):
    """The network, giving a score in 0..1."""

    def __init__(self, network: RankerNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, components: Tensor, context: Tensor) -> Tensor:
        return torch.sigmoid(self.network.rows(components, context))


def convert(model: RankerModel, files: Files) -> None:
    """Add the ranker part to a bundle's files."""
    ports = {"components": torch.zeros(2, 3, len(COMPONENTS)), "context": torch.zeros(2, 2)}
    graph = onnx_graphs.from_torch(_Score(model.network), ports, "score")
    files.add_bytes("ranker/model.onnx", onnx_graphs.to_bytes(graph))
