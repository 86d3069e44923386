"""The memory that opening the most demanding bundles takes stays within the bound of the format."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from musix_runtime.bundle.tree_check import MAX_NODES
from tests.fuzz.run import OPEN_BYTES
from tests.runtime.hostile.build import agree

GENRE = "genre/model.onnx"
GROWTH = """
import re, sys
from pathlib import Path
from musix_runtime import Engine
def resident(key):
    return 1024 * int(re.search(rf"{key}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
Engine.open(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
Engine.open(sys.argv[2])
print(resident("VmHWM") - before)
"""


def forest(depth: int) -> dict[str, object]:
    """Return the attributes of as many full binary trees as a graph may have, each leaf with a weight."""
    size = 2**depth - 1
    count, node = MAX_NODES // size, np.arange(size)
    leaf = node >= size // 2

    def each(values: NDArray[np.int64]) -> list[int]:
        return [int(value) for value in np.tile(values, count)]

    def of_tree(nodes: int) -> list[int]:
        return np.repeat(np.arange(count), nodes).tolist()

    return {
        "n_targets": 1,
        "nodes_treeids": of_tree(size),
        "nodes_nodeids": each(node),
        "nodes_featureids": each(node % 15),
        "nodes_truenodeids": each(np.where(leaf, 0, 2 * node + 1)),
        "nodes_falsenodeids": each(np.where(leaf, 0, 2 * node + 2)),
        "nodes_modes": ["LEAF" if end else "BRANCH_LT" for end in leaf] * count,
        "nodes_missing_value_tracks_true": [0] * size * count,
        "nodes_values": [0.5] * size * count,
        "target_treeids": of_tree(int(leaf.sum())),
        "target_nodeids": each(np.flatnonzero(leaf)),
        "target_ids": [0] * int(leaf.sum()) * count,
        "target_weights": [0.001] * int(leaf.sum()) * count,
    }


def test_the_largest_forest(demo_bundle: Path, copy: Path) -> None:
    model = onnx.load(copy / GENRE)
    missing = helper.make_node("IsNaN", ["features"], ["of forest"])
    filled = helper.make_node("Cast", ["of forest"], ["filled"], to=onnx.TensorProto.FLOAT)
    trees = helper.make_node("TreeEnsembleRegressor", ["filled"], ["added"], domain="ai.onnx.ml", **forest(11))
    model.graph.node.extend([missing, filled, trees])
    (copy / GENRE).write_bytes(model.SerializeToString())
    agree(copy, GENRE)
    size = sum(file.stat().st_size for file in copy.rglob("*") if file.is_file())
    command = [sys.executable, "-W", "ignore", "-c", GROWTH, demo_bundle, copy]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown <= size + OPEN_BYTES
    assert grown > 5 * (copy / GENRE).stat().st_size  # else the trees were not read
