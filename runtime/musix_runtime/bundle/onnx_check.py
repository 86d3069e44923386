"""The subset of ONNX that a bundle may use, checked in the bytes before ONNX Runtime reads them.

An ONNX file can refer to other files, contain functions and loops, and need any amount of memory and time through its
shapes alone. So only what the exporter writes is accepted: one graph of the operators in `onnx_operators.py`, with its
constants in the file, and with results whose sizes and cost follow from the shapes and are limited.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.bundle.onnx_operators import FLOAT, INT64, MAX_RANK, OPERATORS, Node, Shape
from musix_runtime.bundle.onnx_schema import MODEL
from musix_runtime.bundle.protobuf import decode
from musix_runtime.bundle.tree_check import MAX_NUMBER

MAX_BYTES = 32 * 2**20
MAX_NODES = 512
MAX_CONSTANTS = 1024
MAX_ELEMENTS = 2**24  # of all results of one run
MAX_OPERATIONS = 2**28  # of one run
OPSETS = {b"": range(13, 22), b"ai.onnx.ml": range(3, 4)}
IR_VERSIONS = range(7, 12)
_ATTRIBUTE_TYPES = {"f": 1, "i": 2, "s": 3, "floats": 6, "ints": 7, "strings": 8}
_DTYPES: dict[int, np.dtype[Any]] = {FLOAT: np.dtype("<f4"), INT64: np.dtype("<i8")}


def check(data: bytes, inputs: Mapping[str, Shape], outputs: Sequence[str], trees: bool = False) -> None:
    """Raise ValueError unless `data` is a model of the subset with these inputs, of these shapes, and these outputs.

    It may have trees only with `trees`. Shapes of results are upper bounds: ONNX Runtime checks types and exact shapes.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES:,} bytes, found {len(data):,}")
    model = decode(data, MODEL, "model")
    _check_versions(model)
    graph = model.get("graph")
    if graph is None:
        raise ValueError("model: expected a graph, found none")
    for kind, names in (("inputs", inputs), ("outputs", outputs)):
        found = [value.get("name") for value in graph[kind]]
        if found != [name.encode() for name in names]:
            raise ValueError(f"graph: expected the {kind} {[*names]}, found {found}")
    if not trees and any(node.get("op_type") == b"TreeEnsembleRegressor" for node in graph["nodes"]):
        raise ValueError("graph: expected no trees in this part, found a TreeEnsembleRegressor")
    shapes = _check_sizes(graph, {name.encode(): shape for name, shape in inputs.items()})
    for port in (*graph["inputs"], *graph["outputs"]):
        _check_port(port, shapes)


def _check_versions(model: dict[str, Any]) -> None:
    if model.get("ir_version") not in IR_VERSIONS:
        raise ValueError(f"model: expected an ir_version in {IR_VERSIONS}, found {model.get('ir_version')}")
    versions = [(opset.get("domain", b""), opset.get("version", 0)) for opset in model["opsets"]]
    if len({domain for domain, _ in versions}) != len(versions):
        raise ValueError(f"model: expected no domain twice, found {versions}")
    for domain, version in versions:
        if version not in OPSETS.get(domain, ()):
            raise ValueError(f"model: expected opsets of {OPSETS}, found {domain!r} {version}")


def _check_sizes(graph: dict[str, Any], inputs: dict[bytes, Shape]) -> dict[bytes, Shape]:
    """Return the shapes of all constants, inputs and results by name, which are upper bounds."""
    constants = _constants(graph["initializers"])
    shapes = {name: array.shape for name, array in constants.items()}
    if shapes.keys() & inputs.keys() or b"" in shapes:
        raise ValueError("graph: expected names of initializers to be unique")
    shapes |= inputs
    types = {name: INT64 if array.dtype.kind == "i" else FLOAT for name, array in constants.items()}
    types |= dict.fromkeys(inputs, FLOAT)
    if len(graph["nodes"]) > MAX_NODES:
        raise ValueError(f"graph: expected at most {MAX_NODES} nodes, found {len(graph['nodes']):,}")
    if len(constants) > MAX_CONSTANTS:
        raise ValueError(f"graph: expected at most {MAX_CONSTANTS:,} initializers, found {len(constants):,}")
    if unused := constants.keys() - {name for node in graph["nodes"] for name in node["inputs"]}:
        raise ValueError(f"graph: expected initializers that a node reads, found {len(unused):,} others")
    elements = operations = 0
    trees: dict[bytes, Mapping[str, Any] | None] = {}
    for raw in graph["nodes"]:
        node = _node(raw, shapes, types, constants, trees)
        if not set(raw["inputs"]) - constants.keys():
            raise ValueError(f"{node.op_type}: expected an input that is no constant, found {raw['inputs']}")
        results, cost = OPERATORS[_key(raw)].rule(node)
        for name, shape in zip(raw["outputs"], results, strict=True):
            if not name or name in shapes:
                raise ValueError(f"{node.op_type}: expected a new name for its result, found {name!r}")
            if len(shape) > MAX_RANK:
                raise ValueError(f"{node.op_type}: expected a result of at most {MAX_RANK} axes, found {len(shape)}")
            shapes[name], types[name], trees[name] = shape, node.result_type, node.result_trees
        elements += sum(map(prod, results))
        operations += cost + sum(map(prod, results))
        if elements > MAX_ELEMENTS or operations > MAX_OPERATIONS:
            raise ValueError(
                f"{node.op_type}: expected at most {MAX_ELEMENTS:,} numbers and {MAX_OPERATIONS:,} operations a run, "
                f"found {elements:,} and {operations:,}"
            )
    return shapes


def _check_port(port: dict[str, Any], shapes: dict[bytes, Shape]) -> None:
    """Raise ValueError if an input or output is declared larger than it can be: ONNX Runtime takes memory for it."""
    shape = shapes.get(port["name"])
    if shape is None:
        raise ValueError(f"graph: expected an output that a node has, found {port['name']!r}")
    declared = [dim.get("value") for dim in port.get("type", {}).get("tensor", {}).get("shape", {}).get("dims", [])]
    known = len(declared) in (0, len(shape))
    if not known or any(
        size is not None and not 0 < size <= limit for size, limit in zip(declared, shape, strict=False)
    ):
        raise ValueError(f"graph: {port['name']!r}: expected a shape within {shape}, found {declared}")


def _constants(tensors: list[dict[str, Any]]) -> dict[bytes, NDArray[Any]]:
    constants: dict[bytes, NDArray[Any]] = {}
    for tensor in tensors:
        name, dims, raw = tensor.get("name", b""), tensor["dims"].tolist(), tensor.get("raw_data", b"")
        dtype = _DTYPES.get(tensor.get("data_type", 0))
        if dtype is None or len(dims) > MAX_RANK or any(not 0 < dim <= MAX_BYTES for dim in dims):
            raise ValueError(f"initializer {name!r}: expected float32 or int64 of at most {MAX_RANK} axes")
        if len(raw) != prod(dims) * dtype.itemsize or name in constants:
            raise ValueError(f"initializer {name!r}: expected one definition, with raw data of its shape {dims}")
        constants[name] = np.frombuffer(raw, dtype).reshape(dims)
        if dtype.kind == "f" and not (np.abs(constants[name]) <= MAX_NUMBER).all():
            raise ValueError(f"initializer {name!r}: expected numbers up to {MAX_NUMBER:g}, found larger ones or NaN")
    return constants


def _key(raw: dict[str, Any]) -> tuple[str, str]:
    return raw.get("domain", b"").decode("latin-1"), raw.get("op_type", b"").decode("latin-1")


def _node(
    raw: dict[str, Any],
    shapes: dict[bytes, Shape],
    types: dict[bytes, int],
    constants: dict[bytes, NDArray[Any]],
    trees: dict[bytes, Mapping[str, Any] | None],
) -> Node:
    domain, op_type = _key(raw)
    operator = OPERATORS.get((domain, op_type))
    if operator is None:
        raise ValueError(f"expected one of the operators {_names()}, found {op_type!r} of the domain {domain!r}")
    unknown = [name for name in raw["inputs"] if name not in shapes]
    if unknown or len(raw["inputs"]) not in operator.n_inputs or not raw["outputs"]:
        raise ValueError(f"{op_type}: expected the results of earlier nodes as inputs, found {raw['inputs']}")
    if len(raw["outputs"]) > 1 and op_type != "Split":
        raise ValueError(f"{op_type}: expected one result, found {len(raw['outputs'])}")
    return Node(
        op_type,
        _attributes(raw["attributes"], op_type, operator.attributes),
        [shapes[name] for name in raw["inputs"]],
        [types[name] for name in raw["inputs"]],
        [constants.get(name) for name in raw["inputs"]],
        [trees.get(name) for name in raw["inputs"]],
        len(raw["outputs"]),
    )


def _attributes(raw: list[dict[str, Any]], op_type: str, known: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the attributes by name. `known` has the field of each allowed attribute."""
    values = {}
    for attribute in raw:
        name = attribute.get("name", b"").decode("latin-1")
        field = known.get(name)
        filled = [kind for kind in _ATTRIBUTE_TYPES if kind in attribute and not _is_empty(attribute[kind])]
        if field is None or name in values:
            raise ValueError(f"{op_type}: expected the attributes {[*known]}, at most once, found {name!r}")
        if attribute.get("type") != _ATTRIBUTE_TYPES[field] or filled not in ([], [field]):
            raise ValueError(f"{op_type}: {name}: expected a value in the field {field!r}, found {filled}")
        values[name] = attribute.get(field, b"" if field == "s" else 0)
    return values


def _is_empty(value: Any) -> bool:
    return isinstance(value, list | np.ndarray) and not len(value)


def _names() -> str:
    return ", ".join(op_type for _, op_type in OPERATORS)
