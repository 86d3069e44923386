"""ONNX graphs: made from text or from PyTorch modules, and serialized deterministically."""

import logging
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper, parser


def from_text(text: str, constants: dict[str, Any]) -> onnx.ModelProto:
    """Return the model in ONNX's textual form, with the constants as initializers."""
    model = parser.parse_model(text)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()
    )
    return model


def from_torch(module: torch.nn.Module, inputs: dict[str, torch.Tensor], output: str) -> onnx.ModelProto:
    """Return the graph of a module, with BatchNorm folded.

    `inputs` are example tensors by input name. Their last axis is fixed; the first one, and the second of three, are
    free. Raises RuntimeError when the graph still has training operators.
    """
    batch, rows = torch.export.Dim("batch"), torch.export.Dim("rows")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision, not needed, is missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter deprecates parts of itself
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=tuple({0: batch, 1: rows} if tensor.ndim > 2 else {0: batch} for tensor in inputs.values()),
            opset_version=18,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model_proto
    unfolded = {node.op_type for node in model.graph.node} & {"BatchNormalization", "Dropout"}
    if unfolded:
        raise RuntimeError(f"expected BatchNorm and Dropout to be folded, found {sorted(unfolded)}")
    return model


def to_bytes(model: onnx.ModelProto) -> bytes:
    """Return a checked model as bytes, without stack traces, paths and tool versions of the machine that exports."""
    model.producer_name, model.producer_version, model.doc_string = "musix-edge", "", ""
    graph = model.graph
    messages: Iterable[Any] = (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    )
    for message in messages:
        message.ClearField("metadata_props")
        message.ClearField("doc_string")
    del graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)
