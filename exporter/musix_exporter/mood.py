"""Export of the mood part: the network with its preprocessing as one ONNX graph."""

import torch

from musix_exporter import onnx_graphs
from musix_exporter.bundle_writer import PartWriter
from musix_exporter.part import ParityInputs, Part, max_abs_error
from musix_runtime.models import mood
from musix_runtime.models.features import AUDIO
from musix_trainer.run import Run


def convert(run: Run, writer: PartWriter) -> None:
    """Write the mood part."""
    graph = onnx_graphs.from_torch(run.mood.network, {"features": torch.zeros(2, len(AUDIO))}, "probabilities")
    writer.add_bytes("model.onnx", onnx_graphs.to_bytes(graph))


def _parity(inputs: ParityInputs) -> float:
    audio = inputs.audio
    return max_abs_error(inputs.run.mood.probabilities(audio), inputs.engine.mood.probabilities(audio))


PART = Part(
    mood.PART,
    convert,
    parity=_parity,
    native=lambda run: run.mood,
    golden_tolerance=2e-4,  # probabilities have 4 digits: a little more than the rounding error
)
