"""Mutations of ONNX graphs that can still be parsed: constants, ports, nodes, attributes, versions."""

import numpy as np
import onnx
from onnx import AttributeProto, helper, numpy_helper

from tests.fuzz.draft import Draft
from tests.fuzz.graphs import FLOATS, HUGE, INTS, Rng, edit, pick, splice

NODE_CHANGES = ("op", "domain", "input", "no input", "output", "remove", "swap", "chain", "cycle", "many inputs")
OP_TYPES = (
    *("", "Nothing", "Loop", "If", "Scan", "Identity", "Gather", "Reshape", "Mul", "StringNormalizer", "Optional"),
    *("TfIdfVectorizer", "LabelEncoder", "Normalizer", "x" * 10_000),
)
DOMAINS = ("", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "ai.onnx.contrib", "nobody")
PORT_CHANGES = (
    *("dim", "batch", "type", "rank", "no shape", "name", "twice", "more", "none", "optional", "symbol"),
    "initializer",
)


def constants(draft: Draft, rng: Rng) -> str:
    """Set one value or all values of an initializer to an extreme value."""

    def change(model: onnx.ModelProto) -> str:
        tensor = pick(rng, model.graph.initializer)
        values = numpy_helper.to_array(tensor).copy()
        value = pick(rng, FLOATS if values.dtype.kind == "f" else INTS)
        flat = values.reshape(-1)
        flat[slice(None) if rng.random() < 0.4 else int(rng.integers(flat.size))] = value
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return f"{tensor.name} = {value}"

    return edit(draft, rng, change)


def shapes(draft: Draft, rng: Rng) -> str:
    """Make the dimensions, type and data of an initializer inconsistent."""

    def change(model: onnx.ModelProto) -> str:
        tensor = pick(rng, model.graph.initializer)
        how = pick(rng, ("dim", "more", "none", "type", "cut", "grow", "other field"))
        if how == "dim" and tensor.dims:
            tensor.dims[int(rng.integers(len(tensor.dims)))] = pick(rng, HUGE)
        elif how == "more":
            tensor.dims.extend([pick(rng, (1, 2**31, 2**62, -1, 0))] * pick(rng, (1, 4, 1000)))
        elif how == "none":
            del tensor.dims[:]
        elif how == "type":
            tensor.data_type = int(rng.integers(-1, 30))
        elif how == "cut":
            tensor.raw_data = tensor.raw_data[:-1]
        elif how == "grow":
            tensor.raw_data += bytes(8)
        else:
            tensor.float_data.append(1.0)
        return f"{tensor.name}: {how} {list(tensor.dims)[:4]}"

    return edit(draft, rng, change)


def ports(draft: Draft, rng: Rng) -> str:
    """Change dimensions, types, ranks, names or the number of the declared inputs or outputs."""

    def change(model: onnx.ModelProto) -> str:
        values = pick(rng, (model.graph.input, model.graph.output))
        port = pick(rng, values)
        how = pick(rng, PORT_CHANGES)
        dims = port.type.tensor_type.shape.dim
        if how == "dim":
            dims[-1].dim_value = pick(rng, HUGE)
        elif how == "batch":
            dims[0].dim_value = pick(rng, (1, 2, 64, *HUGE))
        elif how == "type":
            port.type.tensor_type.elem_type = int(rng.integers(0, 25))
        elif how == "rank":
            dims.insert(0, onnx.TensorShapeProto.Dimension(dim_value=pick(rng, (1, 2, 0))))
        elif how == "no shape":
            port.type.tensor_type.ClearField("shape")
        elif how == "name":
            port.name = pick(rng, ("", "x" * 10_000, "é", "score"))
        elif how == "twice":
            values.append(port)
        elif how == "more":
            values.append(helper.make_tensor_value_info("more", 1, [1]))
        elif how == "none":
            del values[:]
        elif how == "symbol":
            for value in (*model.graph.input, *model.graph.output):
                value.type.tensor_type.shape.dim[0].dim_param = "same"
                if rng.random() < 0.5:
                    value.type.tensor_type.shape.dim[-1].dim_param = "same"
        elif how == "initializer":
            model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 5), np.float32), port.name))
        else:
            port.type.CopyFrom(helper.make_optional_type_proto(port.type))
        return f"port {port.name[:20]}: {how}"

    return edit(draft, rng, change)


def nodes(draft: Draft, rng: Rng) -> str:
    """Change the operator, domain, inputs, outputs or attributes of a node, remove it, or insert many nodes."""

    def change(model: onnx.ModelProto) -> str:
        place = int(rng.integers(len(model.graph.node)))
        node = model.graph.node[place]
        how = pick(rng, NODE_CHANGES)
        if how == "op":
            node.op_type = pick(rng, OP_TYPES)
        elif how == "domain":
            node.domain = pick(rng, DOMAINS)
        elif how == "remove":
            del model.graph.node[place]
        elif how == "swap":
            node.attribute.extend(list(pick(rng, model.graph.node).attribute))  # maybe of the same node
        elif how == "chain":
            _insert_chain(model, pick(rng, (100, 3_000)))
        else:
            _change_ports(model, node, how, rng)
        return f"node {place} {node.op_type[:20]}: {how}"

    return edit(draft, rng, change)


def _insert_chain(model: onnx.ModelProto, count: int) -> None:
    """Insert `count` + 1 nodes, each with the result of the one before it as its input."""
    names = ["fuzz_inner", *(f"step{i}" for i in range(count))]
    splice(
        model,
        lambda i, o: [helper.make_node("Relu", [a], [b]) for a, b in zip(names, [*names[1:], o], strict=True)],
    )


def _change_ports(model: onnx.ModelProto, node: onnx.NodeProto, how: str, rng: Rng) -> None:
    """Change the inputs or outputs of a node."""
    initializers = [tensor.name for tensor in model.graph.initializer]
    names = [*initializers, *(output for other in model.graph.node for output in other.output)]
    if how == "input" and node.input:
        node.input[int(rng.integers(len(node.input)))] = pick(rng, names)
    elif how == "no input" and node.input:
        node.input[int(rng.integers(len(node.input)))] = pick(rng, ("", "nothing"))
    elif how == "output" and node.output:
        node.output[0] = pick(rng, (*names, "", "nothing"))
    elif how == "cycle" and node.input and node.output:
        node.input[0] = node.output[0]
    elif how == "many inputs":
        node.input.extend([names[0]] * 5_000)


def attributes(draft: Draft, rng: Rng) -> str:
    """Change the values, type or length of an attribute of any node."""

    def change(model: onnx.ModelProto) -> str:
        candidates = [node for node in model.graph.node if node.attribute]
        attribute = pick(rng, pick(rng, candidates).attribute)
        how = pick(rng, ("value", "value", "value", "cut", "grow", "type", "all"))
        if how == "type":
            attribute.type = int(rng.integers(0, 15))
        elif attribute.type == AttributeProto.INT:
            attribute.i = pick(rng, INTS)
        elif attribute.type == AttributeProto.FLOAT:
            attribute.f = pick(rng, FLOATS)
        elif attribute.type == AttributeProto.STRING:
            attribute.s = pick(rng, (b"", b"nothing", b"\xff", b"x" * 100_000))
        else:
            _change_list(attribute, how, rng)
        return f"attribute {attribute.name}: {how}"

    return edit(draft, rng, change)


def trees(draft: Draft, rng: Rng) -> str:
    """Change children, ids, features, classes, modes or weights in the tree ensemble of the genre graph."""
    model = onnx.load_from_string(draft["genre/model.onnx"])
    node = next(node for node in model.graph.node if node.op_type.startswith("TreeEnsemble"))
    attribute = pick(rng, node.attribute)
    how = pick(rng, ("value", "value", "cut", "grow", "all", "cycle", "remove"))
    if how == "cycle":
        children = next(item for item in node.attribute if item.name == "nodes_truenodeids")
        children.ints[:] = [0] * len(children.ints)
    elif how == "remove":
        node.attribute.remove(attribute)
    elif attribute.type == AttributeProto.INT:
        attribute.i = pick(rng, INTS)
    elif attribute.type == AttributeProto.STRING:
        attribute.s = pick(rng, (b"", b"SOFTMAX", b"PROBIT", b"LOGISTIC", b"nothing", b"MIN"))
    else:
        _change_list(attribute, how, rng)
    draft["genre/model.onnx"] = model.SerializeToString()
    return f"trees {attribute.name}: {how}"


def _change_list(attribute: AttributeProto, how: str, rng: Rng) -> None:
    values, news = next(
        (
            (result, news)
            for result, news in (
                (attribute.ints, INTS),
                (attribute.floats, FLOATS),
                (attribute.strings, (b"", b"LEAF", b"BRANCH_EQ", b"\xff")),
            )
            if result
        ),
        (attribute.ints, INTS),
    )
    if how == "cut" and values:
        del values[int(rng.integers(len(values))) :]
    elif how == "grow" or not values:
        values.append(pick(rng, news))
    else:
        place = slice(None) if how == "all" else slice(i := int(rng.integers(len(values))), i + 1)
        values[place] = [pick(rng, news)] * len(values[place])


def model_fields(draft: Draft, rng: Rng) -> str:
    """Change versions of the format and operators, metadata, training information or names."""

    def change(model: onnx.ModelProto) -> str:
        how = pick(rng, ("ir", "opset", "no opset", "twice", "domain", "metadata", "training", "doc", "hint"))
        if how == "ir":
            model.ir_version = pick(rng, INTS)
        elif how == "opset":
            pick(rng, model.opset_import).version = pick(rng, (*INTS, 3, 9, 12, 22, 30))
        elif how == "no opset":
            del model.opset_import[:]
        elif how in ("twice", "domain"):
            model.opset_import.append(helper.make_opsetid("" if how == "twice" else "nobody", 7))
        elif how == "metadata":
            model.metadata_props.add(
                key=pick(rng, ("x", "ort_config", "")),
                value=pick(
                    rng,
                    (
                        "{",
                        '{"session_options": {"intra_op_num_threads": 64, "optimized_model_filepath": "written.onnx"}}',
                    ),
                ),
            )
        elif how == "training":
            model.training_info.add().algorithm.CopyFrom(model.graph)
        elif how == "doc":
            model.doc_string = "x" * 1_000_000
        else:
            model.graph.node[0].metadata_props.add(key="x", value="y" * 100_000)
        return how

    return edit(draft, rng, change)
