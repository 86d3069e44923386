from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper
from xgboost import XGBClassifier

from musix_exporter import genre
from musix_runtime import Engine
from musix_trainer.models.genre.evidence import CALIBRATIONS
from musix_trainer.run import Run


@pytest.mark.parametrize("reloaded", [False, True])
@pytest.mark.parametrize("strategy", ["multi_output_tree", "one_output_per_tree"])
def test_scalar_and_vector_trees_have_xgboosts_probabilities(strategy: str, reloaded: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((2000, 17)).astype(np.float32)
    inputs[rng.random(inputs.shape) < 0.05] = np.nan
    labels = (inputs[:, 0] > 0) + 2 * (inputs[:, 1] > inputs[:, 2]) + 4 * rng.integers(0, 3, len(inputs))
    settings = {"objective": "multi:softprob", "tree_method": "hist", "n_estimators": 20, "max_depth": 5}
    booster = XGBClassifier(multi_strategy=strategy, **settings).fit(inputs, labels)
    expected = booster.predict_proba(inputs)
    if reloaded:
        booster.save_model(tmp_path / "booster.ubj")
        booster = XGBClassifier()
        booster.load_model(tmp_path / "booster.ubj")
    trees = genre._trees(booster)
    assert (trees.vectors is None) == (strategy == "one_output_per_tree")
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml")
    node.attribute.extend(trees.attributes)
    width = 12 if trees.vectors is None else 20
    ports = [helper.make_tensor_value_info(name, 1, ["N", width]) for name, width in (("x", 17), ("y", width))]
    opsets = [helper.make_opsetid(domain, version) for domain, version in genre.OPSET.items()]
    model = helper.make_model(
        helper.make_graph([node], "trees", ports[:1], ports[1:]), opset_imports=opsets, ir_version=8
    )
    (margins,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": inputs})
    if trees.vectors is not None:
        margins = trees.vectors[margins.astype(int)].sum(axis=1)
    result = np.exp(margins - margins.max(axis=1, keepdims=True))
    np.testing.assert_allclose(result / result.sum(axis=1, keepdims=True), expected, atol=2e-6)


def test_graph_equals_the_native_model_with_missing_values(demo_run: Run, engine: Engine) -> None:
    rng, catalogue = np.random.default_rng(0), demo_run.catalogue
    inputs = catalogue.inputs[:200].copy()
    inputs[rng.random(inputs.shape) < 0.2] = np.nan
    inputs[:20] = np.nan
    inputs[20:60, 12:] = np.nan
    known, titles = catalogue.texts(np.arange(200))
    names = [[["Nobody At All"], item, [*item, "Nobody"], [], ["!!!"]][row % 5] for row, item in enumerate(known)]
    titles = ["" if row % 3 == 0 else title for row, title in enumerate(titles)]
    _, calibration = demo_run.genre.scores(inputs, names, titles)
    assert set(calibration.tolist()) == set(range(CALIBRATIONS))
    expected, evidence = demo_run.genre.predict(inputs, names, titles)
    found, found_evidence = engine.genre.predict(inputs, names, titles)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found_evidence == evidence
