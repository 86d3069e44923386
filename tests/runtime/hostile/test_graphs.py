"""ONNX graphs with the right hash that would read files, loop or take much memory are refused."""

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from musix_runtime import Engine
from musix_runtime.bundle import onnx_check, tree_check
from musix_runtime.bundle.onnx_operators import OPERATORS
from musix_runtime.bundle.protobuf import INT, MAX_NUMBERS, Field, decode
from musix_runtime.errors import BundleError, LayoutError
from tests.conftest import ROOT
from tests.runtime.hostile.build import agree

MOOD = "mood/model.onnx"
INPUTS, OUTPUTS = {"features": (1000, 12)}, ["probabilities"]


@pytest.fixture(scope="module")
def mood(demo_bundle: Path) -> bytes:
    return (demo_bundle / MOOD).read_bytes()


def external(tensor: TensorProto, location: str = "secret.key") -> TensorProto:
    """Move the values of a tensor to another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def floats(*shape: int) -> TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.float32), "added")


def external_initializer(model: onnx.ModelProto) -> None:
    external(model.graph.initializer[0])


def external_attribute(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["added"], value=external(floats(12))))


def external_in_a_branch(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [], [external(floats(12))])
    model.graph.node.append(helper.make_node("If", ["isnan"], ["added"], then_branch=branch, else_branch=branch))


def external_in_a_function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["y"], value=external(floats(12)))
    model.functions.append(helper.make_function("own", "F", [], ["y"], [node], [helper.make_opsetid("", 18)]))


def unused_initializers(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(floats(1))


def too_many_messages(model: onnx.ModelProto) -> None:
    for _ in range(2**14):
        model.graph.node.add()


def unknown_domain(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "com.microsoft"


def loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["added"], body=body))


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def metadata(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="a", value="b")


def more_nodes_than_allowed(model: onnx.ModelProto) -> None:
    model.graph.node.extend(helper.make_node("Abs", ["features"], [f"added {i}"]) for i in range(600))


def numbers_without_bound(model: onnx.ModelProto) -> None:
    """Multiply a column by a row of constants, which ONNX Runtime would compute while loading."""
    column, row = floats(100_000, 1), floats(1, 100_000)
    column.name, row.name = "column", "row"
    model.graph.initializer.extend([column, row])
    model.graph.node.append(helper.make_node("Add", ["column", "row"], ["added"]))


def a_sum_of_constants(model: onnx.ModelProto) -> None:
    """ONNX Runtime would compute it while loading, beside the constants."""
    column, row = floats(100, 1), floats(1, 100)
    column.name, row.name = "column", "row"
    model.graph.initializer.extend([column, row])
    model.graph.node.append(helper.make_node("Add", ["column", "row"], ["added"]))


def products_of_one_row(model: onnx.ModelProto) -> None:
    """Multiply a row by a matrix 60 times: for each product, the matrix is read from the memory."""
    first, matrix, row = floats(12, 2_500), floats(2_500, 2_500), numpy_helper.from_array(np.array([0]), "row")
    first.name, matrix.name = "first", "matrix"
    model.graph.initializer.extend([first, matrix, row])
    model.graph.node.append(helper.make_node("Gather", ["features", "row"], ["one"]))
    model.graph.node.append(helper.make_node("MatMul", ["one", "first"], ["product 0"]))
    for i in range(60):
        model.graph.node.append(helper.make_node("MatMul", [f"product {i}", "matrix"], [f"product {i + 1}"]))


def products_of_the_batch(model: onnx.ModelProto) -> None:
    """Multiply all rows with each other, so that memory grows with the square of the batch."""
    model.graph.node.append(helper.make_node("Gemm", ["features", "features"], ["added"], transB=1))


def the_same_name_twice(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Abs", ["features"], ["isnan"]))


def a_name_that_nothing_has(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nothing"


def a_shape_beyond_its_data(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 2**40


def text_in_a_tensor(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("added", TensorProto.STRING, [1], [b"text"]))


def an_input_of_any_width(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**31


def an_output_of_any_height(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2**31


def a_product_of_integers(model: onnx.ModelProto) -> None:
    matrix = numpy_helper.from_array(np.zeros((12, 2), np.int64), "integers")
    model.graph.initializer.append(matrix)
    model.graph.node.append(helper.make_node("Cast", ["features"], ["whole"], to=TensorProto.INT64))
    model.graph.node.append(helper.make_node("MatMul", ["whole", "integers"], ["slow"]))


def the_least_integer_divided_by_minus_one(model: onnx.ModelProto) -> None:
    """It ends the process, whether the number is a constant or comes from a request."""
    for name, value in (("low", np.float32(-1e9)), ("minus one", np.int64(-1))):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    for first, second in pairwise(["features", "lower", "far lower", "least"]):
        model.graph.node.append(helper.make_node("Mul", [first, "low"], [second]))
    model.graph.node.append(helper.make_node("Cast", ["least"], ["whole"], to=TensorProto.INT64))
    model.graph.node.append(helper.make_node("Div", ["whole", "minus one"], ["end"]))


def trees_outside_of_genre(model: onnx.ModelProto) -> None:
    """Three graphs of trees would take more memory than opening may."""
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    node = helper.make_node("TreeEnsembleRegressor", ["features"], ["added"], domain="ai.onnx.ml", **trees())
    model.graph.node.append(node)


def a_later_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 99


HOSTILE = [
    external_initializer,
    external_attribute,
    external_in_a_branch,
    external_in_a_function,
    unused_initializers,
    too_many_messages,
    unknown_domain,
    loop,
    sparse,
    metadata,
    more_nodes_than_allowed,
    numbers_without_bound,
    a_sum_of_constants,
    products_of_one_row,
    products_of_the_batch,
    the_same_name_twice,
    a_name_that_nothing_has,
    a_shape_beyond_its_data,
    text_in_a_tensor,
    an_input_of_any_width,
    an_output_of_any_height,
    a_product_of_integers,
    the_least_integer_divided_by_minus_one,
    trees_outside_of_genre,
    a_later_opset,
]


def test_message_on_a_huge_name_is_short(copy: Path) -> None:
    model = onnx.load(copy / MOOD)
    model.graph.node[0].input[0] = "x" * 10_000_000
    (copy / MOOD).write_bytes(model.SerializeToString())
    agree(copy, MOOD)
    with pytest.raises(LayoutError) as caught:
        Engine.open(copy)
    assert len(str(caught.value)) <= 2001


@pytest.mark.parametrize("change", HOSTILE)
def test_hostile_graph_is_refused(copy: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(copy / MOOD)
    change(model)
    (copy / MOOD).write_bytes(model.SerializeToString())
    agree(copy, MOOD)
    with pytest.raises(LayoutError, match=r"mood/model\.onnx: expected an ONNX graph, found: "):
        Engine.open(copy)


def test_exported_graph_passes(mood: bytes) -> None:
    onnx_check.check(mood, INPUTS, OUTPUTS)


def test_numbers_that_would_fill_the_memory_are_refused() -> None:
    """Two bytes of a file can be a number of eight."""
    ints = {1: Field("ints", INT, repeated=True)}
    assert len(decode(b"\x08\x01" * MAX_NUMBERS, ints, "model")["ints"]) == MAX_NUMBERS
    with pytest.raises(ValueError, match=r"model\.ints: expected at most 4,194,304 numbers, found more"):
        decode(b"\x08\x01" * (MAX_NUMBERS + 1), ints, "model")


@pytest.mark.parametrize("extra", [b"\x38\x01", b"\xa0\x01\x01", b"\x0b", b"\x3a", b"\x3a\x00", b"\xff" * 11])
def test_bytes_after_the_model_are_refused(mood: bytes, extra: bytes) -> None:
    with pytest.raises(ValueError, match="expected"):
        onnx_check.check(mood + extra, INPUTS, OUTPUTS)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_accepted_changes_are_read_like_onnx_reads_them(data: st.DataObject, mood: bytes) -> None:
    """For protobuf's own parser, an accepted model has only what was checked."""
    changed = bytearray(mood)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(mood) - 1))
        changed[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        onnx_check.check(bytes(changed), INPUTS, OUTPUTS)
    except ValueError:
        return
    model = onnx.load_from_string(bytes(changed))
    assert not model.functions
    assert not [tensor for tensor in model.graph.initializer if tensor.external_data or tensor.data_location]
    assert {(node.domain, node.op_type) for node in model.graph.node} <= set(OPERATORS)


def trees(**changes: object) -> dict[str, object]:
    """Return the attributes of a tree with a root and two leaves, one weight each, and some changes."""
    ids = np.array([0, 0, 0])
    attributes = {
        "n_targets": 1,
        "nodes_treeids": ids,
        "nodes_nodeids": np.array([0, 1, 2]),
        "nodes_featureids": ids,
        "nodes_values": np.array([0.5, 0, 0], np.float32),
        "nodes_modes": [b"BRANCH_LT", b"LEAF", b"LEAF"],
        "nodes_truenodeids": np.array([1, 0, 0]),
        "nodes_falsenodeids": np.array([2, 0, 0]),
        "nodes_missing_value_tracks_true": ids,
        "target_treeids": ids[:2],
        "target_nodeids": np.array([1, 2]),
        "target_ids": ids[:2],
        "target_weights": np.array([0, 1], np.float32),
    }
    return attributes | changes


def test_complete_tree_passes() -> None:
    assert tree_check.operations_per_row(trees(), 4) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes_truenodeids": np.array([0, 0, 0])},  # a cycle
        {"nodes_truenodeids": np.array([2, 0, 0])},  # one leaf twice, the other never
        {"nodes_falsenodeids": np.array([3, 0, 0])},  # no such node
        {"nodes_falsenodeids": np.array([-1, 0, 0])},
        {"nodes_featureids": np.array([4, 0, 0])},
        {"nodes_nodeids": np.array([0, 1, 1])},
        {"nodes_treeids": np.array([0, 0, 2**40])},
        {"nodes_modes": [b"BRANCH_LT", b"LEAF", b"BRANCH_MEMBER"]},
        {"nodes_values": np.zeros(2, np.float32)},
        {"target_ids": np.array([0, 1])},
        {"target_nodeids": np.array([0, 2])},  # a weight of a branch
        {"target_treeids": np.array([0, 1])},
        {"target_weights": np.zeros(1, np.float32)},
        {"n_targets": 2**40},
        {"base_values": np.zeros(2, np.float32)},
    ],
)
def test_broken_tree_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="TreeEnsembleRegressor: expected"):
        tree_check.operations_per_row(trees(**changes), 4)


def test_trees_that_number_the_rows_of_a_table_pass() -> None:
    tree_check.check_numbers(trees(), 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"target_weights": np.array([0, 2], np.float32)},
        {"target_weights": np.array([0, -1], np.float32)},
        {"base_values": np.array([1], np.float32)},
        {"n_targets": 2},
        {"n_targets": 2, "target_ids": np.array([0, 1])},
        {"target_nodeids": np.array([1, 1])},  # the sum of two weights
        {"target_treeids": np.array([0]), "target_nodeids": np.array([1]), "target_ids": np.array([0])},
        {"post_transform": b"LOGISTIC"},
    ],
)
def test_trees_that_may_number_other_rows_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="TreeEnsembleRegressor: expected"):
        tree_check.check_numbers(trees(**changes), 2)


@pytest.mark.parametrize("attribute", ["target_treeids", "target_nodeids", "target_ids", "target_weights"])
def test_leaves_that_number_no_vector_are_refused(copy: Path, attribute: str) -> None:
    """No request that is tried at loading reaches this leaf."""
    model = onnx.load(copy / "genre/model.onnx")
    node = [node for node in model.graph.node if node.op_type == "TreeEnsembleRegressor"][1]
    (found,) = (each for each in node.attribute if each.name == attribute)
    values = found.floats if attribute == "target_weights" else found.ints
    others = {"target_weights": 2**20, "target_nodeids": values[-31]}
    values[-32] = others.get(attribute, values[0])
    (copy / "genre/model.onnx").write_bytes(model.SerializeToString())
    agree(copy, "genre/model.onnx")
    with pytest.raises(LayoutError, match="TreeEnsembleRegressor: expected"):
        Engine.open(copy)


@pytest.mark.parametrize(("before", "op_type"), [("Cast", "Relu"), ("Gather", "Max"), ("Gather", "Abs")])
def test_changed_results_of_trees_number_no_rows(copy: Path, before: str, op_type: str) -> None:
    """A node between the trees and the Gather hides nothing."""
    model = onnx.load(copy / "genre/model.onnx")
    place = {"Cast": 0, "Gather": 1}[before]
    trees = next(node for node in model.graph.node if node.op_type == "TreeEnsembleRegressor")
    cast = next(node for node in model.graph.node if node.input[0] == trees.output[0])
    node = cast if before == "Cast" else next(each for each in model.graph.node if cast.output[0] in each.input)
    changed = helper.make_node(op_type, [node.input[place]], ["changed"])
    model.graph.node.insert(list(model.graph.node).index(node), changed)
    node.input[place] = "changed"
    (copy / "genre/model.onnx").write_bytes(model.SerializeToString())
    agree(copy, "genre/model.onnx")
    with pytest.raises(LayoutError, match="expected results of trees, unchanged, as rows of a constant"):
        Engine.open(copy)


def test_a_very_deep_tree_is_refused() -> None:
    """The children of each branch are a leaf and the next branch."""
    size = 2 * 100 + 1
    nodes = np.arange(size)
    branch = (nodes % 2 == 0) & (nodes < size - 1)
    deep = {
        "nodes_treeids": np.zeros(size, np.int64),
        "nodes_nodeids": nodes,
        "nodes_featureids": np.zeros(size, np.int64),
        "nodes_values": np.zeros(size, np.float32),
        "nodes_modes": [b"BRANCH_LT" if item else b"LEAF" for item in branch],
        "nodes_truenodeids": np.where(branch, nodes + 1, 0),
        "nodes_falsenodeids": np.where(branch, nodes + 2, 0),
        "nodes_missing_value_tracks_true": np.zeros(size, np.int64),
    }
    with pytest.raises(ValueError, match="a depth of at most 64"):
        tree_check.operations_per_row(trees(**deep), 4)


@pytest.mark.parametrize(("name", "initializer"), [("ranker", "network.layers.4.bias"), ("genre", "family_factors")])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_constant_beyond_the_bound_is_refused(copy: Path, name: str, initializer: str, value: float) -> None:
    model = onnx.load(copy / name / "model.onnx")
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == initializer)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[-1] = value
    tensor.raw_data = values.tobytes()
    (copy / name / "model.onnx").write_bytes(model.SerializeToString())
    agree(copy, f"{name}/model.onnx")
    with pytest.raises(BundleError, match=rf"initializer b'{initializer}': expected numbers up to 1e\+09"):
        Engine.open(copy)


def test_graph_with_nan_output_for_users_without_history_is_refused(copy: Path) -> None:
    """No golden case has such a user: the loader runs the graph on extreme inputs."""
    model = onnx.load(copy / "ranker/model.onnx")
    (one,) = (tensor for tensor in model.graph.initializer if tensor.name == "const_cast")  # of log(1 + history)
    one.raw_data = np.float32(-1).tobytes()
    (copy / "ranker/model.onnx").write_bytes(model.SerializeToString())
    agree(copy, "ranker/model.onnx")
    with pytest.raises(LayoutError, match=r"ranker/model\.onnx: score: expected numbers in 0\.\.1, found nan"):
        Engine.open(copy)


@pytest.mark.parametrize("place", range(6))
def test_row_of_a_table_that_does_not_exist_is_refused(copy: Path, place: int) -> None:
    """Each kind of artist and title has its row of the calibration: all are tried at loading."""
    model = onnx.load(copy / "genre/model.onnx")
    (rows,) = (tensor for tensor in model.graph.initializer if tensor.name == "names_of")
    values = numpy_helper.to_array(rows).copy()
    assert values.shape == (6,)
    values[place] = 2**31
    rows.raw_data = values.tobytes()
    (copy / "genre/model.onnx").write_bytes(model.SerializeToString())
    agree(copy, "genre/model.onnx")
    with pytest.raises(LayoutError, match=r"genre/model\.onnx: confidence: expected a result for every input"):
        Engine.open(copy)


def test_the_specification_lists_the_operators() -> None:
    text = re.search(r"- Operators are (.*?)\. Axes", (ROOT / "bundles" / "README.md").read_text(), re.DOTALL)
    assert text
    assert {name for _, name in OPERATORS} == set(re.findall(r"\b[A-Z][A-Za-z]+\b", text[1]))
