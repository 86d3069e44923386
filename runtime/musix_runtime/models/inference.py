"""Inference: one run of an ONNX graph, with checks of its results."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from musix_runtime.errors import LayoutError, shorten
from musix_runtime.models.arrays import Floats

ROUNDING = 1e-6  # by which rounding may move a probability out of 0..1


def probabilities(session: Any, output: str, inputs: Mapping[str, Floats], rows: int, width: int) -> Floats:
    """Run a graph and return its output: numbers in 0..1. Shape (rows, width).

    `session` is an `onnxruntime.InferenceSession`, or an object with its `run`. Raises LayoutError when the output has
    another shape, or numbers that are NaN or out of range.
    """
    try:
        (values,) = session.run([output], inputs)
    except Exception as error:  # onnxruntime's errors share no base below Exception
        raise LayoutError(f"{output}: expected a result for every input, found: {shorten(str(error))}") from error
    values = np.asarray(values, np.float32)
    if values.shape != (rows, width):
        raise LayoutError(f"{output}: expected an output of shape {(rows, width)}, found {values.shape}")
    if values.size and not (values.min() >= -ROUNDING and values.max() <= 1 + ROUNDING):
        raise LayoutError(f"{output}: expected numbers in 0..1, found {values.min()} to {values.max()}")
    return values
