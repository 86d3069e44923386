"""Export of the genre part: the whole ensemble as one ONNX graph, and the artist factors that are its input."""

import json
import re
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper
from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
from skl2onnx import to_onnx, update_registered_converter
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes
from xgboost import XGBClassifier

from musix_exporter import onnx_graphs
from musix_exporter.bundle_writer import PartWriter
from musix_exporter.part import ParityInputs, Part, max_abs_error
from musix_runtime.bundle.tree_check import MAX_NUMBER
from musix_runtime.models import genre
from musix_runtime.models.arrays import Floats
from musix_trainer.models.genre import evidence
from musix_trainer.models.genre.calibration import FLOOR
from musix_trainer.models.genre.features import (
    AUDIO_COLUMNS,
    ENERGY,
    LOUDNESS,
    PRIOR_MARGIN,
    TEMPO,
    TITLE_MARGIN,
    VALENCE,
)
from musix_trainer.models.genre.model import BOOSTERS, GenreModel
from musix_trainer.run import Run

TINY = np.finfo(np.float32).tiny  # the least size of a prior that is not zero
OPSET = {"": 15, "ai.onnx.ml": 3}  # the newest that the XGBoost converter writes

# A booster in the text below. Its trees have a leaf for each row, with the number of its vector as the only weight. An
# ensemble whose leaves had a weight for each family would take five times the bytes, and more memory to open.
TREES = re.compile(r"(\w+) = trees\((\w+)\)")
VECTOR_TREES = r"""\1_leaves = ai.onnx.ml.TreeEnsembleRegressor(\2)
  \1_numbers = Cast<to = 7>(\1_leaves)
  \1_vectors = Gather<axis = 0>(\1_leaf_vectors, \1_numbers)
  \1 = ReduceSum<keepdims = 0>(\1_vectors, axis_1)"""
SCALAR_TREES = r"\1 = ai.onnx.ml.TreeEnsembleRegressor(\2)"

TEXT = """
<ir_version: 8, opset_import: ["" : 15, "ai.onnx.ml" : 3]>
genre (float[N, INPUTS] features, float[N, WIDTH] artist, float[N, FAMILIES] title, float[N, 1] case)
  => (float[N, FAMILIES] confidence)
{
  missing = IsNaN(features)
  above = Max(features, low)
  bounded = Min(above, high)
  clipped = Where(missing, features, bounded)
  energy = Gather<axis = 1>(clipped, energy_column)
  valence = Gather<axis = 1>(clipped, valence_column)
  energy_valence = Mul(energy, valence)
  tempo = Gather<axis = 1>(clipped, tempo_column)
  loudness = Gather<axis = 1>(clipped, loudness_column)
  quietness = Abs(loudness)
  scale = Add(one, quietness)
  tempo_loudness = Div(tempo, scale)
  number = Cast<to = 7>(case)
  kind = Squeeze(number, axis_1)
  name_score = Gather<axis = 1>(artist, name_columns)
  lean = Gather<axis = 0>(leans, kind)
  lean_on_name = Mul(name_score, lean)
  lean_on_title = Mul(title, title_lean)
  sound = Concat<axis = 1>(clipped, energy_valence, tempo_loudness)
  evidence = Concat<axis = 1>(sound, name_score, title, case)
  margin = trees(evidence)
  title_evidence = Concat<axis = 1>(sound, title)
  title_margin = trees(title_evidence)
  title_leaned = Add(title_margin, lean_on_title)
  title_probability = Softmax<axis = 1>(title_leaned)
  title_positive = Max(title_probability, floor)
  title_score = Log(title_positive)
  sound_margin = trees(sound)
  sound_probability = Softmax<axis = 1>(sound_margin)
  sound_positive = Max(sound_probability, floor)
  sound_score = Log(sound_positive)
  audio = Gather<axis = 1>(sound, audio_columns)
  audio_margin = trees(audio)
  audio_probability = Softmax<axis = 1>(audio_margin)
  audio_positive = Max(audio_probability, floor)
  audio_score = Log(audio_positive)
  leaned = Sum(margin, lean_on_name, lean_on_title)
  probability = Softmax<axis = 1>(leaned)
  positive = Max(probability, floor)
  tree_score = Log(positive)

  cell = Unsqueeze(features, axis_2)
  beyond = GreaterOrEqual(cell, edges)
  counted = Cast<to = 7>(beyond)
  bin = ReduceSum<keepdims = 0>(counted, axis_2)
  bin_row = Add(bin, first_bin)
  bin_factor = Gather<axis = 0>(bin_factors, bin_row)
  there = Not(missing)
  there_float = Cast<to = 1>(there)
  there_cell = Unsqueeze(there_float, axis_2)
  there_factor = Mul(bin_factor, there_cell)
  bins = ReduceSum<keepdims = 0>(there_factor, axis_1)
  artist_factor = Gather<axis = 1>(artist, factor_columns)
  track = Add(artist_factor, bins)
  product = MatMul(track, family_factors)
  artist_score = Add(product, family_biases)

  name_size = Abs(name_score)
  name_sum = ReduceSum<keepdims = 0>(name_size, axis_1)
  has_name = GreaterOrEqual(name_sum, tiny)
  named = Cast<to = 7>(has_name)
  twice_kind = Add(kind, kind)
  names_row = Add(twice_kind, named)
  names = Gather<axis = 0>(names_of, names_row)
  absent = Cast<to = 7>(missing)
  levels = Gather<axis = 1>(absent, level_columns)
  level = ReduceSum<keepdims = 0>(levels, axis_1)
  level_row = Mul(level, n_names)
  row = Add(level_row, names)
  weight = Gather<axis = 0>(weights, row)
  artist_weight, tree_weight, title_weight, sound_weight, audio_weight = Split<axis = 1>(weight)
  bias = Gather<axis = 0>(biases, row)
  weighted_artist = Mul(artist_score, artist_weight)
  weighted_tree = Mul(tree_score, tree_weight)
  weighted_title = Mul(title_score, title_weight)
  weighted_sound = Mul(sound_score, sound_weight)
  weighted_audio = Mul(audio_score, audio_weight)
  logits = Sum(weighted_artist, weighted_tree, weighted_title, weighted_sound, weighted_audio, bias)
  probabilities = Softmax<axis = 1>(logits)
  at_least = Max(probabilities, floor)
  kept = Min(at_least, ceiling)
  rest = Sub(one, kept)
  log_kept = Log(kept)
  log_rest = Log(rest)
  odds = Sub(log_kept, log_rest)
  line = Gather<axis = 0>(platt, row)
  slope, intercept = Split<axis = 1>(line)
  sloped = Mul(odds, slope)
  shifted = Add(sloped, intercept)
  confidence = Sigmoid(shifted)
}
"""


def convert(run: Run, writer: PartWriter) -> None:
    """Write the genre part."""
    model = run.genre
    artists = len(model.artists)
    factors = np.column_stack([model.item_factors, model.item_biases]).astype(np.float32)
    writer.add_bytes("model.onnx", onnx_graphs.to_bytes(_graph(model, factors[artists + 1 :])))
    writer.add_array("artists", model.artists)
    no_prior = np.zeros((1, model.artist_prior.shape[1]), np.float32)  # of the unknown artist
    prior = np.vstack([no_prior, model.artist_prior])
    writer.add_array("artist_factors", np.column_stack([factors[: artists + 1], prior]))
    writer.add_array("grams", model.grams)
    writer.add_array("gram_weights", model.gram_weights)


def _parity(inputs: ParityInputs) -> float:
    tracks = inputs.tracks
    return max_abs_error(inputs.run.genre.confidence(*tracks), inputs.engine.genre.confidence(*tracks))


def _graph(model: GenreModel, bin_factors: np.ndarray) -> onnx.ModelProto:
    inputs, cuts = model.edges.shape
    family_factors = np.vstack([model.family_factors.T, np.ones(len(model.family_biases))])
    width, families = family_factors.shape
    constants = {
        "low": _bounded(model.low),
        "high": _bounded(model.high),
        "energy_column": np.array([ENERGY]),
        "valence_column": np.array([VALENCE]),
        "tempo_column": np.array([TEMPO]),
        "loudness_column": np.array([LOUDNESS]),
        "axis_1": np.array([1]),
        "axis_2": np.array([2]),
        "one": np.float32(1),
        "audio_columns": np.array(AUDIO_COLUMNS),
        "tiny": np.float32(TINY),
        "names_of": evidence.NAMES_OF.ravel(),
        "n_names": np.int64(len(evidence.NAMES)),
        "level_columns": np.array([evidence.POPULARITY, evidence.ENERGY]),
        "floor": np.float32(FLOOR),
        "ceiling": np.float32(1 - FLOOR),
        "leans": np.array(PRIOR_MARGIN, np.float32)[:, None],
        "title_lean": np.float32(TITLE_MARGIN),
        "edges": _bounded(model.edges),
        "first_bin": np.arange(inputs) * (cuts + 1),
        "bin_factors": (bin_factors * model.bin_weight).astype(np.float32),
        "family_factors": family_factors.astype(np.float32),
        "family_biases": model.family_biases,
        "weights": model.weights,
        "biases": model.biases,
        "platt": model.platt,
        "factor_columns": np.arange(width),
        "name_columns": np.arange(width, width + families),
    }
    sizes = {"INPUTS": inputs, "WIDTH": width + families, "FAMILIES": families}
    text = TEXT
    for name, size in sizes.items():
        text = text.replace(name, str(size))
    trees = [_trees(getattr(model, name)) for name in BOOSTERS]
    for (margin, _), ensemble in zip(TREES.findall(TEXT), trees, strict=True):
        text = TREES.sub(SCALAR_TREES if ensemble.vectors is None else VECTOR_TREES, text, count=1)
        if ensemble.vectors is not None:
            constants[f"{margin}_leaf_vectors"] = ensemble.vectors
    graph = onnx_graphs.from_text(text, constants)
    places = (node for node in graph.graph.node if node.op_type == "TreeEnsembleRegressor")
    for place, ensemble in zip(places, trees, strict=True):
        place.attribute.extend(ensemble.attributes)
    return graph


class Trees(NamedTuple):
    """A booster as the attributes of a TreeEnsembleRegressor.

    Without `vectors` its targets are the margins of the families. With `vectors` (leaves, families) they are numbers of
    these, one for each tree, whose sum are the margins.
    """

    attributes: list[onnx.AttributeProto]
    vectors: Floats | None


def _trees(booster: XGBClassifier) -> Trees:
    """Return the trees of a booster.

    Raises ValueError for other objectives and boosters, which the converter converts wrongly without an error.
    """
    params = booster.get_xgb_params()
    if params["objective"] != "multi:softprob" or params.get("booster") not in (None, "gbtree"):
        raise ValueError(
            f"genre: expected gbtree with multi:softprob, found {params.get('booster')} with {params['objective']}"
        )
    learner = json.loads(booster.get_booster().save_raw("json"))["learner"]
    trees = learner["gradient_booster"]["model"]["trees"]
    vectors, targets = None, booster.n_classes_
    if int(trees[0]["tree_param"]["size_leaf_vector"]) > 1:
        attributes, vectors = _vector_trees(trees)
        vectors[: _leaves(trees[0])] += np.array(json.loads(learner["learner_model_param"]["base_score"]), np.float32)
        targets = len(trees)
    else:
        attributes = _scalar_trees(booster)
    attributes |= {"n_targets": targets, "post_transform": "NONE"}
    return Trees([helper.make_attribute(name, value) for name, value in sorted(attributes.items())], vectors)


def _scalar_trees(booster: XGBClassifier) -> dict[str, Any]:
    """Return the attributes of an ensemble with one tree for each family and round, made by the converter."""
    update_registered_converter(
        XGBClassifier,
        "XGBoostXGBClassifier",
        calculate_linear_classifier_output_shapes,
        convert_xgboost,
        options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
    )
    ports = [("evidence", FloatTensorType([None, booster.n_features_in_]))]
    converted = to_onnx(booster, initial_types=ports, target_opset=OPSET, options={"zipmap": False}, name="genre")
    (trees,) = (node for node in converted.graph.node if node.op_type == "TreeEnsembleClassifier")
    attributes = {each.name: helper.get_attribute_value(each) for each in trees.attribute}
    del attributes["classlabels_int64s"], attributes["post_transform"]
    # A classifier's classes are a regressor's targets.
    return {name.replace("class_", "target_"): value for name, value in attributes.items()}


def _vector_trees(trees: list[dict[str, Any]]) -> tuple[dict[str, Any], Floats]:
    """Return the attributes of an ensemble with one tree for each round, and the vectors of all leaves.

    The converter does not support it, so it is read from XGBoost's JSON. There a leaf has no left child, and its right
    child is the position of its vector among the leaf vectors.
    """
    attributes: dict[str, list[Any]] = defaultdict(list)
    vectors: list[Floats] = []
    first = 0  # number of the first leaf of a tree
    for number, tree in enumerate(trees):
        left, right = np.array(tree["left_children"]), np.array(tree["right_children"])
        leaf = left == -1
        count = _leaves(tree)
        nodes = {
            "treeids": np.full(len(leaf), number),
            "nodeids": np.arange(len(leaf)),
            "featureids": np.where(leaf, 0, tree["split_indices"]),
            "values": np.where(leaf, 0, tree["split_conditions"]).astype(np.float32),
            "modes": np.where(leaf, "LEAF", "BRANCH_LT"),
            "truenodeids": np.where(leaf, 0, left),
            "falsenodeids": np.where(leaf, 0, right),
            "missing_value_tracks_true": np.where(leaf, 0, tree["default_left"]),
        }
        targets = {
            "treeids": np.full(count, number),
            "nodeids": np.flatnonzero(leaf),
            "ids": np.full(count, number),
            "weights": first + right[leaf].astype(np.float32),
        }
        vectors.append(np.array(tree["leaf_weights"], np.float32).reshape(count, -1))
        first += count
        for kind, columns in (("nodes", nodes), ("target", targets)):
            for name, values in columns.items():
                attributes[f"{kind}_{name}"] += values.tolist()
    return attributes, np.vstack(vectors)


def _leaves(tree: dict[str, Any]) -> int:
    return tree["left_children"].count(-1)


def _bounded(values: np.ndarray) -> np.ndarray:
    """Return the values within the bounds of a bundle's constants, which are far beyond those of the inputs."""
    return np.clip(values, np.float32(-MAX_NUMBER), np.float32(MAX_NUMBER))


PART = Part(
    genre.PART,
    convert,
    parity=_parity,
    native=lambda run: run.genre,
    golden_tolerance=2e-4,  # confidences have 4 digits: a little more than the rounding error
)
