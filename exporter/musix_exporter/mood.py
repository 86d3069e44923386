"""Mood: the network with its preprocessing as one ONNX graph."""

import torch

from musix_exporter import graphs
from musix_exporter.files import Files
from musix_runtime.features import AUDIO
from musix_trainer.mood import MoodModel


def convert(model: MoodModel, files: Files) -> None:
    """Add the mood part to a bundle's files."""
    module = torch.nn.Sequential(model.network, torch.nn.Softmax(dim=1))
    graph = graphs.from_torch(module, {"features": torch.zeros(2, len(AUDIO))}, "probabilities")
    files.add_bytes("mood/model.onnx", graphs.to_bytes(graph))
