"""Check of a TreeEnsembleRegressor: complete trees of limited depth and size.

ONNX Runtime follows the ids of the nodes without checks: with a cycle, a missing node or a very deep tree it would hang
or crash. Attributes are those of https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleRegressor.html.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_NODES = 2**18
MAX_WEIGHTS = MAX_NODES
MAX_TARGETS = 1024
MAX_DEPTH = 64
MAX_NUMBER = 1e9  # of a threshold, weight or other constant: their sums do not overflow
_BRANCH, _LEAF = b"BRANCH_LT", b"LEAF"
_NODE_IDS = ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids", "missing_value_tracks_true")

Ids = NDArray[np.int64]


def operations_per_row(attributes: Mapping[str, Any], n_features: int) -> int:
    """Return the maximum number of nodes and weights that are read for a row. Raises ValueError for broken trees."""
    n_targets = attributes.get("n_targets", 1)
    _check(0 < n_targets <= MAX_TARGETS, f"1 to {MAX_TARGETS} targets", n_targets)
    _check(
        len(attributes.get("base_values", ())) in (0, n_targets),
        "no base values, or one for each target",
        "another number",
    )
    ids = {name: attributes.get(f"nodes_{name}", np.empty(0, np.int64)) for name in _NODE_IDS}
    modes = np.array(attributes.get("nodes_modes", []), "S16")
    others = [attributes[name] for name in ("nodes_values", "nodes_hitrates") if name in attributes]
    lengths = {len(array) for array in (*ids.values(), *others, modes)}
    _check(len(lengths) == 1 and 0 < len(modes) <= MAX_NODES, f"arrays of 1 to {MAX_NODES:,} nodes", lengths)
    for name in ("nodes_values", "target_weights", "base_values"):
        numbers = np.asarray(attributes.get(name, ()), np.float32)
        _check(bool((np.abs(numbers) <= MAX_NUMBER).all()), f"{name} of at most {MAX_NUMBER:g}", "others")
    starts = _root_positions(ids["treeids"], ids["nodeids"])
    _check_range("featureids", ids["featureids"], 0, n_features - 1)
    leaf = modes == _LEAF
    _check(bool((leaf | (modes == _BRANCH)).all()), "the modes BRANCH_LT and LEAF", "others")
    depth = _depth(ids, starts, leaf)
    return len(np.unique(starts)) * depth + _weights_per_row(attributes, n_targets, ids["treeids"], starts, leaf)


def check_numbers(attributes: Mapping[str, Any], count: int) -> None:
    """Raise ValueError unless all results are numbers in 0..count-1: those of the leaves of one tree for each target.

    The attributes must have passed `operations_per_row`."""
    node_trees, trees, nodes = (attributes[name] for name in ("nodes_treeids", "target_treeids", "target_nodeids"))
    sizes = np.bincount(node_trees)
    leaves = (len(node_trees) + len(sizes)) // 2  # as each branch has two children
    _check(attributes.get("n_targets", 1) == len(sizes), "a target for each tree", "another number")
    _check(bool((attributes["target_ids"] == trees).all()), "targets numbered as their trees", "others")
    repeated = np.bincount((np.cumsum(sizes) - sizes)[trees] + nodes).max() > 1
    _check(not repeated and len(nodes) == leaves, "one weight for each leaf", "others")
    _check(not np.any(attributes.get("base_values", 0)), "base values of 0", "others")
    _check(attributes.get("post_transform", b"NONE") == b"NONE", "no post_transform", "another")
    _check_range("target_weights", attributes["target_weights"], 0, count - 1)


def _root_positions(trees: Ids, nodes: Ids) -> Ids:
    """Return the position of the root of each node's tree. Raises ValueError unless trees and nodes count from 0."""
    first = np.append(True, trees[1:] != trees[:-1])
    _check(bool((trees == np.cumsum(first) - 1).all()), "trees numbered from 0", "others")
    positions = np.arange(len(trees))
    starts = np.maximum.accumulate(np.where(first, positions, 0))
    _check(bool((nodes == positions - starts).all()), "the nodes of each tree numbered from 0", "others")
    return starts


def _depth(ids: Mapping[str, Ids], starts: Ids, leaf: NDArray[np.bool_]) -> int:
    """Return the depth of the deepest tree. Raises ValueError unless each node has one earlier parent, except roots."""
    branches = np.flatnonzero(~leaf)
    sizes = np.bincount(ids["treeids"])[ids["treeids"]]
    parent = starts.copy()
    n_children = np.zeros(len(leaf), np.int64)
    for name in ("truenodeids", "falsenodeids"):
        children = ids[name]
        _check(bool(((children >= 0) & (children < sizes)).all()), f"{name} in their tree", "others")
        _check(bool((children[branches] > ids["nodeids"][branches]).all()), f"{name} after their node", "others")
        parent[starts[branches] + children[branches]] = branches
        n_children += np.bincount(starts[branches] + children[branches], minlength=len(leaf))
    _check(bool((n_children == (ids["nodeids"] > 0)).all()), "each node except roots to be a child once", "others")
    ancestors, depth = np.arange(len(leaf)), 0
    while not np.array_equal(ancestors, starts):
        ancestors, depth = parent[ancestors], depth + 1
        _check(depth <= MAX_DEPTH, f"a depth of at most {MAX_DEPTH}", "more")
    return depth


def _weights_per_row(
    attributes: Mapping[str, Any], n_targets: int, trees: Ids, starts: Ids, leaf: NDArray[np.bool_]
) -> int:
    """Return the maximum number of weights of the leaves of one row. Each weight belongs to a leaf and a target."""
    names = ("treeids", "nodeids", "ids", "weights")
    tree_ids, node_ids, targets, weights = (attributes.get(f"target_{name}", np.empty(0, np.int64)) for name in names)
    lengths = {len(array) for array in (tree_ids, node_ids, targets, weights)}
    _check(len(lengths) == 1 and 0 < len(weights) <= MAX_WEIGHTS, f"1 to {MAX_WEIGHTS:,} weights", lengths)
    _check_range("target_ids", targets, 0, n_targets - 1)
    _check_range("target_treeids", tree_ids, 0, int(trees[-1]))
    roots, sizes = np.unique(starts), np.bincount(trees)
    _check(bool(((node_ids >= 0) & (node_ids < sizes[tree_ids])).all()), "target_nodeids in their tree", "others")
    positions = roots[tree_ids] + node_ids
    _check(bool(leaf[positions].all()), "weights of leaves only", "others")
    most = np.maximum.reduceat(np.bincount(positions, minlength=len(leaf)), roots)
    return int(most.sum())


def _check_range(name: str, values: Ids, low: int, high: int) -> None:
    _check(bool(((values >= low) & (values <= high)).all()), f"{name} in {low}..{high}", "others")


def _check(condition: bool, expected: str, found: object) -> None:
    if not condition:
        raise ValueError(f"TreeEnsembleRegressor: expected {expected}, found {found}")
