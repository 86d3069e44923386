"""ONNX graphs made to attack: data from outside, bombs of memory and time, answers that are not well-formed."""

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from tests.fuzz.draft import Draft
from tests.fuzz.graphs import Rng, constant, edit, pick, splice

ENDINGS = (
    "Log", "Sqrt", "Neg", "Exp", "Reciprocal", "Div", "Mul", "Sum", "Flatten", "Transpose", "ReduceMean", "Unsqueeze",
    "first row", "no rows", "twice the rows", "Compress", "cast", "string", "NonZero", "now and then", "now and then",
    "RandomUniformLike",
)  # fmt: skip


def external(draft: Draft, rng: Rng) -> str:
    """Move data out of the graph: of an initializer or constant, in a subgraph or function."""
    location = pick(
        rng,
        ("/etc/passwd", "../catalog/inputs.npy", "model.onnx", "/dev/zero", "/proc/self/mem", "*/_ORT_MEM_ADDR_/*", ""),
    )
    offset, length = pick(rng, ((0, 60), (0, 2**40), (2**62, 60), (-1, 60)))

    def outside(dims: list[int]) -> TensorProto:
        tensor = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
        return tensor

    def change(model: onnx.ModelProto) -> str:
        how = pick(rng, ("initializer", "own", "constant", "subgraph", "function", "sparse"))
        node = helper.make_node("Constant", [], ["outside"], value=outside([15]))
        if how == "initializer":
            model.graph.initializer.append(outside([15]))
        elif how == "own":
            tensor = pick(rng, model.graph.initializer)
            name, dims = tensor.name, list(tensor.dims)
            tensor.CopyFrom(outside(dims))
            tensor.name = name
        elif how == "constant":
            model.graph.node.insert(0, node)
        elif how == "subgraph":
            branch = helper.make_graph([node], "b", [], [helper.make_tensor_value_info("outside", 1, [15])])
            constant(model, "yes", True, np.bool_)
            model.graph.node.append(helper.make_node("If", ["yes"], ["unused"], then_branch=branch, else_branch=branch))
        elif how == "function":
            function = helper.make_function("local", "f", [], ["outside"], [node], list(model.opset_import))
            model.functions.append(function)
            model.opset_import.append(helper.make_opsetid("local", 1))
            model.graph.node.append(helper.make_node("f", [], ["unused"], domain="local"))
        else:
            model.graph.sparse_initializer.add(values=outside([3]), indices=outside([3]), dims=[15])
        return f"external {how} {location} {offset} {length}"

    return edit(draft, rng, change)


def bombs(draft: Draft, rng: Rng) -> str:
    """Insert nodes that take much memory or time: huge fills, repetitions, doublings, products, loops."""

    def change(model: onnx.ModelProto) -> str:
        size = pick(rng, (2**24, 2**28, 2**32, 2**40, 2**62))
        for name, values in (("size", [size]), ("ends", [0, size]), ("root", [4096, 4096]), ("turns", size)):
            constant(model, name, values)
        for name, value in (("from", 0), ("to", size), ("step", 1)):
            constant(model, name, value)
        for name, floats in (("zero", 0.0), ("zeros", [0.0]), ("pair", [0.0, 1.0])):
            constant(model, name, floats, np.float32)
        made = _bombs()
        how = pick(rng, list(made))
        splice(model, lambda inner, outer: [*made[how], *_added(made[how][-1].output[0], inner, outer)])
        return f"{how} {size}"

    return edit(draft, rng, change)


def integers(draft: Draft, rng: Rng) -> str:
    """Compute with the least integer, which has no negative: the quotient of it and -1 ends a process."""

    def change(model: onnx.ModelProto) -> str:
        whole, other = pick(rng, (6, 7)), pick(rng, (-1.0, 0.0, 1.0, 1e9))
        how = pick(rng, ("Div", "Div", "Mod", "Mul", "Add", "Sub", "Max", "Gather", "Abs", "Neg"))
        constant(model, "fuzz_low", -1e9, np.float32)
        constant(model, "zero", 0.0, np.float32)
        constant(model, "other", other, np.float32)
        splice(model, lambda inner, outer: _integer_nodes(how, whole, inner, outer))
        return f"{how} {whole} {other}"

    return edit(draft, rng, change)


def _integer_nodes(how: str, whole: int, inner: str, outer: str) -> list[NodeProto]:
    node = helper.make_node
    inputs = ["least"] if how in ("Abs", "Neg") else [inner, "least"] if how == "Gather" else ["least", "second"]
    return [
        node("Mul", [inner, "fuzz_low"], ["lower"]),
        node("Mul", ["lower", "fuzz_low"], ["far_lower"]),
        node("Mul", ["far_lower", "fuzz_low"], ["lowest"]),
        node("Cast", ["lowest"], ["least"], to=whole),
        node("Mul", [inner, "zero"], ["zeros"]),
        node("Add", ["zeros", "other"], ["others"]),
        node("Cast", ["others"], ["second"], to=whole),
        node(how, inputs, ["whole"]),
        node("Cast", ["whole"], ["floats"], to=1),
        node("Mul", ["floats", "zero"], ["nought"]),
        node("Add", [inner, "nought"], [outer]),
    ]


def _bombs() -> dict[str, list[NodeProto]]:
    node = helper.make_node
    doubling = [node("Concat", [f"double{i}"] * 2, [f"double{i + 1}"], axis=0) for i in range(30)]
    return {
        "fill": [node("ConstantOfShape", ["size"], ["big"])],
        "expand": [node("Expand", ["zero", "size"], ["big"])],
        "tile": [node("Tile", ["zeros", "size"], ["big"])],
        "pad": [node("Pad", ["zeros", "ends"], ["big"])],
        "range": [node("Range", ["from", "to", "step"], ["big"])],
        "resize": [node("Resize", ["zeros", "", "", "size"], ["big"])],
        "onehot": [node("OneHot", ["from", "to", "pair"], ["big"])],
        "doubling": [node("Concat", ["fuzz_inner"] * 2, ["double0"], axis=0), *doubling],
        "product": [node("ConstantOfShape", ["root"], ["tall"]), node("MatMul", ["tall", "tall"], ["big"])],
        "loop": [_loop()],
    }


def _added(last: str, inner: str, outer: str) -> list[NodeProto]:
    """Add a result, multiplied by 0, to the output, so that it has to be computed."""
    node = helper.make_node
    return [
        node("Cast", [last], ["floats"], to=1),
        node("ReduceSum", ["floats"], ["sum"], keepdims=0),
        node("Mul", ["sum", "zero"], ["nought"]),
        node("Add", [inner, "nought"], [outer]),
    ]


def _loop() -> NodeProto:
    """Return a loop with the number of iterations in `turns`."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Cos", ["x"], ["y"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, [])],
        [value("go_on", TensorProto.BOOL, []), value("y", TensorProto.FLOAT, [])],
    )
    return helper.make_node("Loop", ["turns", "", "zero"], ["big"], body=body)


def endings(draft: Draft, rng: Rng) -> str:
    """Make the output not finite, out of range, of another shape or type, empty, or wrong for some inputs."""

    def change(model: onnx.ModelProto) -> str:
        constant(model, "zero_f", 0.0, np.float32)
        constant(model, "half", 0.5, np.float32)
        constant(model, "big_f", pick(rng, (1e38, -1e38, 1e9, -5.0, 1.5)), np.float32)
        constant(model, "bad", pick(rng, (float("nan"), float("inf"), 7.0, -1.0)), np.float32)
        for name, values in (("none_i", [0]), ("one_i", [1]), ("axis_i", [0]), ("two_i", [2, 1])):
            constant(model, name, values)
        how, kind = pick(rng, ENDINGS), pick(rng, (2, 6, 7, 9, 10, 11))
        splice(model, lambda inner, outer: _ending(how, kind, inner, outer))
        if rng.random() < 0.3:
            del model.graph.output[0].type.tensor_type.shape.dim[0]
        return how

    return edit(draft, rng, change)


def _ending(how: str, kind: int, inner: str, outer: str) -> list[NodeProto]:
    def node(op: str, *inputs: str, **attributes: int) -> NodeProto:
        return helper.make_node(op, [inner, *inputs], [outer], **attributes)

    return {
        "Div": [node("Div", "zero_f")],
        "Mul": [node("Mul", "big_f")],
        "Sum": [node("ReduceSum", keepdims=0)],
        "Flatten": [node("Flatten", axis=0)],
        "Unsqueeze": [node("Unsqueeze", "axis_i")],
        "first row": [node("Slice", "none_i", "one_i", "axis_i")],
        "no rows": [node("Slice", "none_i", "none_i", "axis_i")],
        "twice the rows": [node("Tile", "two_i")],
        "Compress": [helper.make_node("IsNaN", [inner], ["nan"]), node("Compress", "nan")],
        "cast": [node("Cast", to=kind)],
        "string": [node("Cast", to=8)],
        "NonZero": [helper.make_node("NonZero", [inner], ["nz"]), helper.make_node("Cast", ["nz"], [outer], to=1)],
        "now and then": [
            helper.make_node("Greater", [inner, "half"], ["large"]),
            helper.make_node("Where", ["large", "bad", inner], [outer]),
        ],
    }.get(how) or [node(how)]
