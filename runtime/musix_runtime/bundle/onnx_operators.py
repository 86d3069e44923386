"""The ONNX operators that a bundle may use: their inputs and attributes, and the shapes and cost of their results.

Shapes are upper bounds, and so are costs: operations beyond one for each number of the results.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from numpy.typing import NDArray

from musix_runtime.bundle import tree_check

MAX_RANK = 4
FLOAT, INT32, INT64, BOOL = 1, 6, 7, 9  # element types, by their numbers in ONNX
_NUMBERS = (FLOAT, INT32, INT64, BOOL)

Shape = tuple[int, ...]
Cost = int


@dataclass(frozen=True)
class Node:
    """A node of a graph: its attributes, the shapes and element types of its inputs, the values of those that are
    constants, and the attributes of the trees whose results others are, empty when these were changed."""

    op_type: str
    attributes: Mapping[str, Any]
    shapes: Sequence[Shape]
    types: Sequence[int]
    constants: Sequence[NDArray[Any] | None]
    trees: Sequence[Mapping[str, Any] | None]
    n_outputs: int

    @property
    def result_type(self) -> int:
        """The element type of the results."""
        if self.op_type == "Cast":
            return self.integer("to", 0)
        if self.op_type in ("GreaterOrEqual", "IsNaN", "Not"):
            return BOOL
        return self.types[1 if self.op_type == "Where" else 0]

    @property
    def result_trees(self) -> Mapping[str, Any] | None:
        """The attributes of the trees whose results, or these as integers, the results are; empty if they are made of
        such results in another way."""
        if self.op_type == "TreeEnsembleRegressor":
            return self.attributes
        if self.op_type == "Cast" and self.result_type in (INT32, INT64):
            return self.trees[0]
        return None if self.trees.count(None) == len(self.trees) else {}

    def integer(self, name: str, default: int) -> int:
        return int(self.attributes.get(name, default))

    def axis(self, rank: int, default: int = 0) -> int:
        return _axis(self.integer("axis", default), rank)

    def axes(self, rank: int) -> list[int]:
        """Return the axes in the second input, which must be a constant. Raises ValueError."""
        values = self.constants[1] if len(self.constants) > 1 else None
        if values is None or values.dtype.kind != "i" or not 0 < values.size <= MAX_RANK:
            raise ValueError(f"{self.op_type}: expected the axes as a constant of 1 to {MAX_RANK} integers")
        return [_axis(int(value), rank) for value in values.ravel()]


Rule = Callable[[Node], tuple[list[Shape], Cost]]


@dataclass(frozen=True)
class Operator:
    """An operator. `rule` returns the shapes and cost of its results, and raises ValueError for a wrong use."""

    rule: Rule
    n_inputs: range
    attributes: Mapping[str, str]  # name -> the field of the attribute message that has the value


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"expected an axis of {rank}, found {axis}")
    return axis % rank


def _broadcast(node: Node) -> tuple[list[Shape], Cost]:
    rank = max(map(len, node.shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in node.shapes]
    return [tuple(map(max, zip(*padded, strict=True)))], 0


def _quotient(node: Node) -> tuple[list[Shape], Cost]:
    """Divide numbers of float32. The least integer divided by -1 would end the process."""
    if set(node.types) != {FLOAT}:
        raise ValueError(f"Div: expected numbers of float32, found the element types {[*node.types]}")
    return _broadcast(node)


def _gather(node: Node) -> tuple[list[Shape], Cost]:
    data, indices = node.shapes
    axis = node.axis(len(data))
    if (trees := node.trees[1]) is not None:  # their leaves are too many to try each
        if not trees or node.constants[0] is None:
            raise ValueError("Gather: expected results of trees, unchanged, as rows of a constant")
        tree_check.check_numbers(trees, data[axis])
    return [data[:axis] + indices + data[axis + 1 :]], 0


def _concat(node: Node) -> tuple[list[Shape], Cost]:
    axis = node.axis(len(node.shapes[0]))
    if len({len(shape) for shape in node.shapes}) > 1:
        raise ValueError("Concat: expected inputs with the same number of axes")
    shape = [*map(max, zip(*node.shapes, strict=True))]
    shape[axis] = sum(dims[axis] for dims in node.shapes)
    return [tuple(shape)], 0


def _split(node: Node) -> tuple[list[Shape], Cost]:
    (shape,) = node.shapes
    axis = node.axis(len(shape))
    part = -(-shape[axis] // node.n_outputs)
    return [(*shape[:axis], part, *shape[axis + 1 :])] * node.n_outputs, 0


def _slice(node: Node) -> tuple[list[Shape], Cost]:
    return [node.shapes[0]], 0


def _squeeze(node: Node) -> tuple[list[Shape], Cost]:
    shape = node.shapes[0]
    axes = node.axes(len(shape))
    return [tuple(dim for i, dim in enumerate(shape) if i not in axes)], 0


def _unsqueeze(node: Node) -> tuple[list[Shape], Cost]:
    shape = [*node.shapes[0]]
    axes = node.axes(len(shape) + 1)
    if len(axes) > 1:
        raise ValueError("Unsqueeze: expected one axis")
    shape.insert(axes[0], 1)
    return [tuple(shape)], 0


def _reduce(node: Node) -> tuple[list[Shape], Cost]:
    shape = node.shapes[0]
    axes = node.axes(len(shape))
    kept = node.integer("keepdims", 1)
    dims = [1 if i in axes else dim for i, dim in enumerate(shape) if kept or i not in axes]
    return [tuple(dims)], prod(shape)


def _product(node: Node) -> tuple[list[Shape], Cost]:
    """Multiply matrices by a constant matrix."""
    first, second, transposed = node.shapes[0], node.shapes[1], node.integer("transB", 0)
    constant = node.constants[1]
    if len(first) < 2 or len(second) != 2 or constant is None or node.integer("transA", 0):
        raise ValueError(f"{node.op_type}: expected matrices, not transposed, by a constant matrix")
    if constant.dtype.kind != "f":  # a product of integers takes many times as long
        raise ValueError(f"{node.op_type}: expected a constant matrix of float32, found {constant.dtype}")
    shape = (*first[:-1], second[0 if transposed else 1])
    return [shape], prod(shape) * max(first[-1], second[1 if transposed else 0])


def _reshape(node: Node) -> tuple[list[Shape], Cost]:
    """Reshape to a constant shape. One of its axes may be -1, which stands for the remaining size."""
    constant, size = node.constants[1], prod(node.shapes[0])
    if constant is None or constant.dtype.kind != "i" or not 0 < constant.size <= MAX_RANK:
        raise ValueError(f"Reshape: expected a constant shape of 1 to {MAX_RANK} axes")
    shape = constant.ravel().tolist()
    if not all(dim == -1 or 0 < dim <= size for dim in shape) or shape.count(-1) > 1:
        raise ValueError(f"Reshape: expected axes of 1 to {size:,} and at most one of -1, found {shape}")
    rest = max(1, size // prod(dim for dim in shape if dim != -1))
    return [tuple(rest if dim == -1 else dim for dim in shape)], 0


def _cast(node: Node) -> tuple[list[Shape], Cost]:
    if node.integer("to", 0) not in _NUMBERS:
        raise ValueError(f"Cast: expected one of the types {_NUMBERS}, found {node.integer('to', 0)}")
    return [node.shapes[0]], 0


def _trees(node: Node) -> tuple[list[Shape], Cost]:
    if len(node.shapes[0]) != 2:
        raise ValueError("TreeEnsembleRegressor: expected a matrix")
    rows, width = node.shapes[0]
    return [(rows, node.integer("n_targets", 1))], rows * tree_check.operations_per_row(node.attributes, width)


_AXIS = {"axis": "i"}
_TREE_ATTRIBUTES = {
    "base_values": "floats",
    "n_targets": "i",
    "nodes_falsenodeids": "ints",
    "nodes_featureids": "ints",
    "nodes_hitrates": "floats",
    "nodes_missing_value_tracks_true": "ints",
    "nodes_modes": "strings",
    "nodes_nodeids": "ints",
    "nodes_treeids": "ints",
    "nodes_truenodeids": "ints",
    "nodes_values": "floats",
    "post_transform": "s",
    "target_ids": "ints",
    "target_nodeids": "ints",
    "target_treeids": "ints",
    "target_weights": "floats",
}
OPERATORS = {
    **{("", name): Operator(_broadcast, range(1, 2), {}) for name in ("Abs", "Cos", "IsNaN", "Log", "Not")},
    **{("", name): Operator(_broadcast, range(1, 2), {}) for name in ("Relu", "Sigmoid", "Sin")},
    **{("", name): Operator(_broadcast, range(2, 3), {}) for name in ("Add", "GreaterOrEqual", "Mul", "Sub")},
    ("", "Div"): Operator(_quotient, range(2, 3), {}),
    **{("", name): Operator(_broadcast, range(1, 17), {}) for name in ("Max", "Min", "Sum")},
    ("", "Where"): Operator(_broadcast, range(3, 4), {}),
    ("", "Cast"): Operator(_cast, range(1, 2), {"to": "i"}),
    ("", "Softmax"): Operator(_broadcast, range(1, 2), _AXIS),
    ("", "Concat"): Operator(_concat, range(1, 17), _AXIS),
    ("", "Gather"): Operator(_gather, range(2, 3), _AXIS),
    ("", "Gemm"): Operator(_product, range(2, 4), {"alpha": "f", "beta": "f", "transA": "i", "transB": "i"}),
    ("", "MatMul"): Operator(_product, range(2, 3), {}),
    ("", "ReduceSum"): Operator(_reduce, range(2, 3), {"keepdims": "i"}),
    ("", "Reshape"): Operator(_reshape, range(2, 3), {"allowzero": "i"}),
    ("", "Slice"): Operator(_slice, range(3, 6), {}),
    ("", "Split"): Operator(_split, range(1, 2), _AXIS),
    ("", "Squeeze"): Operator(_squeeze, range(2, 3), {}),
    ("", "Unsqueeze"): Operator(_unsqueeze, range(2, 3), {}),
    ("ai.onnx.ml", "TreeEnsembleRegressor"): Operator(_trees, range(1, 2), _TREE_ATTRIBUTES),
}
