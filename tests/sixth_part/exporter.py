"""Tempo: one array."""

from musix_exporter.bundle_writer import PartWriter
from musix_exporter.part import ParityInputs, Part, max_abs_error
from musix_trainer.run import Run
from tests.sixth_part import runtime


def convert(run: Run, writer: PartWriter) -> None:
    writer.add_array("means", run.models["tempo"].means)


def parity(inputs: ParityInputs) -> float:
    return max_abs_error(inputs.run.models["tempo"].means, inputs.engine.model(runtime.PART).means)


PART = Part(runtime.PART, convert, parity=parity)
