"""Mood: the network with its preprocessing as one ONNX graph."""

import torch

from musix_exporter import onnx_graphs
from musix_exporter.bundle_writer import Files
from musix_runtime.models.features import AUDIO
from musix_trainer.models.mood import MoodModel


def convert(model: MoodModel, files: Files) -> None:
    """Add the mood part to a bundle's files."""
    module = torch.nn.Sequential(model.network, torch.nn.Softmax(dim=1))
    graph = onnx_graphs.from_torch(module, {"features": torch.zeros(2, len(AUDIO))}, "probabilities")
    files.add_bytes("mood/model.onnx", onnx_graphs.to_bytes(graph))
