"""The subset of ONNX that a bundle may use, checked in the bytes before ONNX Runtime sees them.

An ONNX file can name other files to read, hold functions and loops, or ask for any amount of memory and time by shapes
alone. So only what the exporter writes is accepted: one plain graph of the operators below, its constants inside the
file, and results whose sizes and cost follow from the shapes and stay within bounds. Field numbers are those of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.bundle import tree_check
from musix_runtime.bundle.protobuf import BYTES, FLOAT, INT, Field, Fields, decode

MAX_BYTES = 16 * 2**20
MAX_NODES = 512
MAX_RANK = 4
MAX_ELEMENTS = 2**24  # of all results of one run
MAX_OPERATIONS = 2**32  # of one run
OPSETS = {b"": range(13, 22), b"ai.onnx.ml": range(3, 4)}
IR_VERSIONS = range(7, 12)

_TENSOR_TYPE: Fields = {
    1: Field("elem_type", INT),
    2: Field("shape", {1: Field("dims", {1: Field("value", INT), 2: Field("name", BYTES)}, True)}),
}
_VALUE: Fields = {1: Field("name", BYTES), 2: Field("type", {1: Field("tensor", _TENSOR_TYPE)})}
_TENSOR: Fields = {
    1: Field("dims", INT, True),
    2: Field("data_type", INT),
    8: Field("name", BYTES),
    9: Field("raw_data", BYTES),
}
_ATTRIBUTE: Fields = {
    1: Field("name", BYTES),
    2: Field("f", FLOAT),
    3: Field("i", INT),
    4: Field("s", BYTES),
    7: Field("floats", FLOAT, True),
    8: Field("ints", INT, True),
    9: Field("strings", BYTES, True),
    20: Field("type", INT),
}
_NODE: Fields = {
    1: Field("inputs", BYTES, True),
    2: Field("outputs", BYTES, True),
    3: Field("name", BYTES),
    4: Field("op_type", BYTES),
    5: Field("attributes", _ATTRIBUTE, True),
    7: Field("domain", BYTES),
}
_GRAPH: Fields = {
    1: Field("nodes", _NODE, True),
    2: Field("name", BYTES),
    5: Field("initializers", _TENSOR, True),
    11: Field("inputs", _VALUE, True),
    12: Field("outputs", _VALUE, True),
}
_MODEL: Fields = {
    1: Field("ir_version", INT),
    2: Field("producer_name", BYTES),
    3: Field("producer_version", BYTES),
    7: Field("graph", _GRAPH),
    8: Field("opsets", {1: Field("domain", BYTES), 2: Field("version", INT)}, True),
}
_ATTRIBUTE_TYPES = {"f": 1, "i": 2, "s": 3, "floats": 6, "ints": 7, "strings": 8}
_NUMBERS = (1, 6, 7, 9)  # float32, int32, int64, bool
_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 7: np.dtype("<i8")}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class _Node:
    """A node as the rules see it: its attributes, its inputs' shapes, and the values of those that are constants."""

    op_type: str
    attributes: Mapping[str, Any]
    shapes: Sequence[Shape]
    constants: Sequence[NDArray[Any] | None]
    n_outputs: int

    def integer(self, name: str, default: int) -> int:
        return int(self.attributes.get(name, default))

    def axis(self, rank: int, default: int = 0) -> int:
        return _axis(self.integer("axis", default), rank)

    def axes(self, rank: int) -> list[int]:
        """The axes in the second input, which must be a constant."""
        values = self.constants[1] if len(self.constants) > 1 else None
        if values is None or values.dtype.kind != "i" or not 0 < values.size <= MAX_RANK:
            raise ValueError(f"{self.op_type}: expected the axes as a constant of 1 to {MAX_RANK} integers")
        return [_axis(int(value), rank) for value in values.ravel()]


Cost = int  # operations beyond one for each element of the results
Rule = Callable[[_Node], tuple[list[Shape], Cost]]


def check(data: bytes, inputs: Mapping[str, Shape], outputs: Sequence[str]) -> None:
    """Raise ValueError unless `data` is a model of the subset that maps `inputs`, of these shapes, to `outputs`.

    Shapes that follow from the inputs' are upper bounds. ONNX Runtime checks types and exact shapes by itself.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES:,} bytes, found {len(data):,}")
    model = decode(data, _MODEL, "model")
    _check_versions(model)
    graph = model.get("graph")
    if graph is None:
        raise ValueError("model: expected a graph, found none")
    found = [[value.get("name") for value in graph[kind]] for kind in ("inputs", "outputs")]
    if found != [[name.encode() for name in names] for names in (inputs, outputs)]:
        raise ValueError(f"graph: expected {[*inputs]} to be mapped to {[*outputs]}, found {found[0]} to {found[1]}")
    _check_sizes(graph, {name.encode(): shape for name, shape in inputs.items()})


def _check_versions(model: dict[str, Any]) -> None:
    if model.get("ir_version") not in IR_VERSIONS:
        raise ValueError(f"model: expected an ir_version in {IR_VERSIONS}, found {model.get('ir_version')}")
    versions = [(opset.get("domain", b""), opset.get("version", 0)) for opset in model["opsets"]]
    if len({domain for domain, _ in versions}) != len(versions):
        raise ValueError(f"model: expected every domain once, found {versions}")
    for domain, version in versions:
        if version not in OPSETS.get(domain, ()):
            raise ValueError(f"model: expected opsets of {OPSETS}, found {domain!r} {version}")


def _check_sizes(graph: dict[str, Any], inputs: dict[bytes, Shape]) -> None:
    constants = _constants(graph["initializers"])
    shapes = {name: array.shape for name, array in constants.items()}
    if shapes.keys() & inputs.keys() or b"" in shapes:
        raise ValueError("graph: expected names of their own for initializers")
    shapes |= inputs
    if len(graph["nodes"]) > MAX_NODES:
        raise ValueError(f"graph: expected at most {MAX_NODES} nodes, found {len(graph['nodes']):,}")
    elements = operations = 0
    for raw in graph["nodes"]:
        node = _node(raw, shapes, constants)
        results, cost = OPERATORS[_key(raw)].rule(node)
        for name, shape in zip(raw["outputs"], results, strict=True):
            if not name or name in shapes:
                raise ValueError(f"{node.op_type}: expected a new name for its result, found {name!r}")
            if len(shape) > MAX_RANK:
                raise ValueError(f"{node.op_type}: expected a result of at most {MAX_RANK} axes, found {len(shape)}")
            shapes[name] = shape
        elements += sum(map(prod, results))
        operations += cost + sum(map(prod, results))
        if elements > MAX_ELEMENTS or operations > MAX_OPERATIONS:
            raise ValueError(
                f"{node.op_type}: expected at most {MAX_ELEMENTS:,} numbers and {MAX_OPERATIONS:,} operations a run, "
                f"found {elements:,} and {operations:,}"
            )


def _constants(tensors: list[dict[str, Any]]) -> dict[bytes, NDArray[Any]]:
    found: dict[bytes, NDArray[Any]] = {}
    for tensor in tensors:
        name, dims, raw = tensor.get("name", b""), tensor["dims"].tolist(), tensor.get("raw_data", b"")
        dtype = _DTYPES.get(tensor.get("data_type", 0))
        if dtype is None or len(dims) > MAX_RANK or any(not 0 < dim <= MAX_BYTES for dim in dims):
            raise ValueError(f"initializer {name!r}: expected float32 or int64 of at most {MAX_RANK} axes")
        if len(raw) != prod(dims) * dtype.itemsize or name in found:
            raise ValueError(f"initializer {name!r}: expected it once, as raw data of its shape {dims}")
        found[name] = np.frombuffer(raw, dtype).reshape(dims)
    return found


def _key(raw: dict[str, Any]) -> tuple[str, str]:
    return raw.get("domain", b"").decode("latin-1"), raw.get("op_type", b"").decode("latin-1")


def _node(raw: dict[str, Any], shapes: dict[bytes, Shape], constants: dict[bytes, NDArray[Any]]) -> _Node:
    domain, op_type = _key(raw)
    operator = OPERATORS.get((domain, op_type))
    if operator is None:
        raise ValueError(f"expected one of the operators {_names()}, found {op_type!r} of the domain {domain!r}")
    unknown = [name for name in raw["inputs"] if name not in shapes]
    if unknown or len(raw["inputs"]) not in operator.n_inputs or not raw["outputs"]:
        raise ValueError(f"{op_type}: expected inputs that were computed before, found {raw['inputs']}")
    if len(raw["outputs"]) > 1 and op_type != "Split":
        raise ValueError(f"{op_type}: expected one result, found {len(raw['outputs'])}")
    return _Node(
        op_type,
        _attributes(raw["attributes"], op_type, operator.attributes),
        [shapes[name] for name in raw["inputs"]],
        [constants.get(name) for name in raw["inputs"]],
        len(raw["outputs"]),
    )


def _attributes(raw: list[dict[str, Any]], op_type: str, known: Mapping[str, str]) -> dict[str, Any]:
    """Return the attributes' values by name; each must be known, and hold what it is of."""
    found = {}
    for attribute in raw:
        name = attribute.get("name", b"").decode("latin-1")
        field = known.get(name)
        held = [each for each in _ATTRIBUTE_TYPES if each in attribute and not _is_empty(attribute[each])]
        if field is None or name in found:
            raise ValueError(f"{op_type}: expected each of the attributes {[*known]} once, found {name!r}")
        if attribute.get("type") != _ATTRIBUTE_TYPES[field] or held not in ([], [field]):
            raise ValueError(f"{op_type}: {name}: expected a value of the field {field!r}, found {held}")
        found[name] = attribute.get(field, b"" if field == "s" else 0)
    return found


def _is_empty(value: Any) -> bool:
    return isinstance(value, list | np.ndarray) and not len(value)


def _names() -> str:
    return ", ".join(op_type for _, op_type in OPERATORS)


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"expected an axis of {rank}, found {axis}")
    return axis % rank


def _broadcast(node: _Node) -> tuple[list[Shape], Cost]:
    rank = max(map(len, node.shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in node.shapes]
    return [tuple(map(max, zip(*padded, strict=True)))], 0


def _gather(node: _Node) -> tuple[list[Shape], Cost]:
    data, indices = node.shapes
    axis = node.axis(len(data))
    return [data[:axis] + indices + data[axis + 1 :]], 0


def _concat(node: _Node) -> tuple[list[Shape], Cost]:
    axis = node.axis(len(node.shapes[0]))
    if len({len(shape) for shape in node.shapes}) > 1:
        raise ValueError("Concat: expected inputs with as many axes")
    shape = [*map(max, zip(*node.shapes, strict=True))]
    shape[axis] = sum(each[axis] for each in node.shapes)
    return [tuple(shape)], 0


def _split(node: _Node) -> tuple[list[Shape], Cost]:
    (shape,) = node.shapes
    axis = node.axis(len(shape))
    part = -(-shape[axis] // node.n_outputs)
    return [(*shape[:axis], part, *shape[axis + 1 :])] * node.n_outputs, 0


def _slice(node: _Node) -> tuple[list[Shape], Cost]:
    return [node.shapes[0]], 0


def _squeeze(node: _Node) -> tuple[list[Shape], Cost]:
    shape = node.shapes[0]
    axes = node.axes(len(shape))
    return [tuple(dim for i, dim in enumerate(shape) if i not in axes)], 0


def _unsqueeze(node: _Node) -> tuple[list[Shape], Cost]:
    shape = [*node.shapes[0]]
    axes = node.axes(len(shape) + 1)
    if len(axes) > 1:
        raise ValueError("Unsqueeze: expected one axis")
    shape.insert(axes[0], 1)
    return [tuple(shape)], 0


def _reduce(node: _Node) -> tuple[list[Shape], Cost]:
    shape = node.shapes[0]
    axes = node.axes(len(shape))
    kept = node.integer("keepdims", 1)
    dims = [1 if i in axes else dim for i, dim in enumerate(shape) if kept or i not in axes]
    return [tuple(dims)], prod(shape)


def _product(node: _Node) -> tuple[list[Shape], Cost]:
    """Matrices by a constant matrix: the result has as many rows as the first."""
    first, second, transposed = node.shapes[0], node.shapes[1], node.integer("transB", 0)
    if len(first) < 2 or len(second) != 2 or node.constants[1] is None or node.integer("transA", 0):
        raise ValueError(f"{node.op_type}: expected matrices, not transposed, by a constant matrix")
    shape = (*first[:-1], second[0 if transposed else 1])
    return [shape], prod(shape) * max(first[-1], second[1 if transposed else 0])


def _reshape(node: _Node) -> tuple[list[Shape], Cost]:
    """To a constant shape, one axis of which may be -1: what is left."""
    constant, size = node.constants[1], prod(node.shapes[0])
    if constant is None or constant.dtype.kind != "i" or not 0 < constant.size <= MAX_RANK:
        raise ValueError(f"Reshape: expected a constant shape of 1 to {MAX_RANK} axes")
    shape = constant.ravel().tolist()
    if not all(dim == -1 or 0 < dim <= size for dim in shape) or shape.count(-1) > 1:
        raise ValueError(f"Reshape: expected axes of 1 to {size:,} and at most one of -1, found {shape}")
    rest = max(1, size // prod(dim for dim in shape if dim != -1))
    return [tuple(rest if dim == -1 else dim for dim in shape)], 0


def _cast(node: _Node) -> tuple[list[Shape], Cost]:
    if node.integer("to", 0) not in _NUMBERS:
        raise ValueError(f"Cast: expected one of the types {_NUMBERS}, found {node.integer('to', 0)}")
    return [node.shapes[0]], 0


def _trees(node: _Node) -> tuple[list[Shape], Cost]:
    if len(node.shapes[0]) != 2:
        raise ValueError("TreeEnsembleRegressor: expected a matrix")
    rows, width = node.shapes[0]
    return [(rows, node.integer("n_targets", 1))], rows * tree_check.operations_per_row(node.attributes, width)


@dataclass(frozen=True)
class _Operator:
    rule: Rule
    n_inputs: range
    attributes: Mapping[str, str]  # which field of an attribute holds its value


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
    **{("", name): _Operator(_broadcast, range(1, 2), {}) for name in ("Abs", "Cos", "IsNaN", "Log", "Not")},
    **{("", name): _Operator(_broadcast, range(1, 2), {}) for name in ("Relu", "Sigmoid", "Sin")},
    **{("", name): _Operator(_broadcast, range(2, 3), {}) for name in ("Add", "Div", "GreaterOrEqual", "Mul", "Sub")},
    **{("", name): _Operator(_broadcast, range(1, 17), {}) for name in ("Max", "Min", "Sum")},
    ("", "Where"): _Operator(_broadcast, range(3, 4), {}),
    ("", "Cast"): _Operator(_cast, range(1, 2), {"to": "i"}),
    ("", "Softmax"): _Operator(_broadcast, range(1, 2), _AXIS),
    ("", "Concat"): _Operator(_concat, range(1, 17), _AXIS),
    ("", "Gather"): _Operator(_gather, range(2, 3), _AXIS),
    ("", "Gemm"): _Operator(_product, range(2, 4), {"alpha": "f", "beta": "f", "transA": "i", "transB": "i"}),
    ("", "MatMul"): _Operator(_product, range(2, 3), {}),
    ("", "ReduceSum"): _Operator(_reduce, range(2, 3), {"keepdims": "i"}),
    ("", "Reshape"): _Operator(_reshape, range(2, 3), {"allowzero": "i"}),
    ("", "Slice"): _Operator(_slice, range(3, 6), {}),
    ("", "Split"): _Operator(_split, range(1, 2), _AXIS),
    ("", "Squeeze"): _Operator(_squeeze, range(2, 3), {}),
    ("", "Unsqueeze"): _Operator(_unsqueeze, range(2, 3), {}),
    ("ai.onnx.ml", "TreeEnsembleRegressor"): _Operator(_trees, range(1, 2), _TREE_ATTRIBUTES),
}
