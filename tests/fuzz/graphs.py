"""ONNX graphs for mutations: decoded, changed, and encoded again."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from musix_runtime.models.parts import LAYOUT
from tests.fuzz.draft import Draft

Rng = np.random.Generator
T = TypeVar("T")
HUGE = (2**20, 2**31 - 1, 2**31, 2**40, 2**62, -1, 0)
FLOATS = (float("nan"), float("inf"), -float("inf"), 3.4e38, -3.4e38, 0.0, 1e-45, -1.0)
INTS = (0, 1, -1, 2, 7, 10_000, 2**31 - 1, 2**31, -(2**31), 2**32, 2**62, 2**63 - 1, -(2**63))


def edit(draft: Draft, rng: Rng, change: Callable[[onnx.ModelProto], str]) -> str:
    """Change a random graph. Return its name and the description by `change`."""
    name = str(rng.choice(list(LAYOUT.graphs)))
    model = onnx.load_from_string(draft[name])
    what = change(model)
    draft[name] = model.SerializeToString()
    return f"{name}: {what}"


def pick(rng: Rng, choices: Sequence[T]) -> T:
    """Return a random choice."""
    return choices[int(rng.integers(len(choices)))]


def splice(model: onnx.ModelProto, build: Callable[[str, str], list[NodeProto]]) -> None:
    """Insert nodes between the output of a graph and the node that computes it."""
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["fuzz_inner" if item == output else item for item in node.output]
        node.input[:] = ["fuzz_inner" if item == output else item for item in node.input]
    model.graph.node.extend(build("fuzz_inner", output))


def constant(model: onnx.ModelProto, name: str, values: object, dtype: type = np.int64) -> str:
    """Add an initializer and return its name."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype), name))
    return name
