import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import polars as pl
import pytest
from click.testing import CliRunner
from xgboost import XGBClassifier

from musix_exporter import catalog, cli, export, genre, golden, onnx_graphs, parity
from musix_exporter.bundle_writer import BundleWriter, PartWriter
from musix_exporter.part import PARITY_TOLERANCE
from musix_runtime import Engine
from musix_runtime.atomic import sole_writer
from musix_runtime.errors import GoldenError, InputError, OutputError, ParityError
from musix_runtime.golden import replay
from musix_runtime.models.catalog import UNKNOWN_DAY
from musix_runtime.models.parts import LAYOUT, open_bundle
from musix_runtime.models.ranker import Ranker
from musix_runtime.schemas import GenreConfidence, RecommendRequest
from musix_trainer.run import Run
from tests.conftest import DEMO


def test_release_days_are_those_of_the_tracks(demo_run: Run, engine: Engine) -> None:
    seconds = pl.Series([-1, 0, 86_399, None, 86_400], dtype=pl.Int64)
    assert catalog._release_days(seconds).tolist() == [-1, 0, 0, UNKNOWN_DAY, 1]
    seconds = demo_run.catalogue.frame["release_date"]
    days = engine.catalog.release_days.astype("datetime64[D]").astype("datetime64[s]")
    assert days.astype(np.int64).tolist() == seconds.to_list()


def test_parity_is_measured_for_every_part(demo_run: Run, engine: Engine) -> None:
    result = parity.measure(demo_run, engine)
    assert result == engine.bundle.manifest.parity
    assert set(result) == {"genre", "mood", "collab", "content", "ranker"}
    assert max(result.values()) <= PARITY_TOLERANCE


def test_the_command_makes_the_same_bundle_again(small_folder: Path, small_bundle: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.export, [str(small_folder), "--out", str(tmp_path)], catch_exceptions=False)
    exported = open_bundle(tmp_path / small_bundle.name)
    assert exported.digest == open_bundle(small_bundle).digest
    assert exported.digest in result.stdout


def test_wrong_graph_is_not_exported(small_run: Run, tmp_path: Path) -> None:
    """An exported model with other answers than the native model raises an error, and no file is left."""

    class Liar(type(small_run.mood)):
        def probabilities(self, audio: np.ndarray) -> np.ndarray:
            return super().probabilities(audio) * np.float32(0.99)

    with pytest.raises(ParityError, match=r"expected every error at most 0.0001, found \{'mood': 0.00"):
        export.export(small_run.with_models(mood=Liar(small_run.mood.network)), tmp_path / "small-1.0.0")
    assert list(tmp_path.iterdir()) == []


def test_wrong_converter_fails_parity_and_golden_cases(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parity finds the error, and without it the golden cases, which have the answers of the native models."""
    honest = genre._trees

    def wrong(booster: XGBClassifier) -> genre.Trees:
        trees = honest(booster)
        assert trees.vectors is not None
        return trees._replace(vectors=trees.vectors / 2)

    monkeypatch.setattr(genre, "_trees", wrong)
    with pytest.raises(ParityError, match=r"expected every error at most 0.0001, found \{'genre'"):
        export.export(small_run, tmp_path / "small-1.0.0")
    monkeypatch.setattr(parity, "measure", lambda run, engine, parts: {})
    with pytest.raises(GoldenError, match=r"golden classify case \d+: genre: expected a difference of at most "):
        export.export(small_run, tmp_path / "small-1.0.0")
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_that_was_edited_after_training_is_not_exported(demo_run: Run, tmp_path: Path) -> None:
    demo_run.save(tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('version = "1.0.0"', 'version = "1.1.0"'))
    with pytest.raises(InputError, match=r"recipe\.toml: expected the recipe that the run was trained with, SHA-256 "):
        Run.load(tmp_path / "run")


def test_all_golden_cases_are_replayed_at_export(
    small_run: Run, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong case after those that are replayed at open fails the build, not the servers."""
    wrong = Engine.open(small_bundle).golden()
    wrong.classify[-1].expected.mood.probabilities["happy"] += 0.01
    monkeypatch.setattr(golden, "cases", lambda run, engine, parts: wrong)
    with pytest.raises(GoldenError, match="golden classify case 63: mood"):
        export.export(small_run, tmp_path / "small-1.0.0")
    assert list(tmp_path.iterdir()) == []


def test_golden_cases_have_no_near_ties(small_bundle: Path) -> None:
    """All golden cases have the same answers when the scores change by rounding errors, up or down."""
    engine = Engine.open(small_bundle)
    for sign in (-1, 1):
        replay(engine.with_models(ranker=Ranker(golden._NoisySession(engine.ranker.session, sign))), engine.golden())


def test_equal_scores_stay_equal_beside_rounding_errors() -> None:
    """Candidates with the same features keep their order: no request without them may exist in a catalogue."""

    class Session:
        def run(self, outputs: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [feed["scores"]]

    scores = np.array([[0.5], [0.25], [0.5], [0.5], [0.25], [0.75]], np.float32)
    for sign in (-1, 1):
        (found,) = golden._NoisySession(Session(), sign).run([], {"scores": scores})
        assert found[0] == found[2] == found[3] != scores[0]
        assert found[1] == found[4] != scores[1]


def test_golden_cases_that_are_never_stable_raise(engine: Engine) -> None:
    case = engine.golden().classify[0]
    wrong = GenreConfidence(case.expected.genres[0].name, 0.123)
    other = msgspec.structs.replace(case.expected, genres=[wrong, *case.expected.genres[1:]])
    draws = []

    def draw(number: int, attempt: int) -> golden.Golden:
        draws.append(number)
        return golden.Golden(engine.golden().tolerance, [golden.ClassifyCase(case.request, other)], [])

    with pytest.raises(GoldenError, match=r"^golden classify case 7: genre: expected .*; none of 20 such requests "):
        golden._stable(draw, 7, engine)
    assert draws == [7] * golden.MAX_DRAWS  # no other kind takes the place of a wrong one


def test_another_kind_takes_the_place_of_one_that_has_only_near_ties(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def replay(engine: str, case: str) -> None:
        if (engine, case) == ("noisy", "kind 7"):
            raise GoldenError("golden recommend case 0: ranker: expected a difference of at most 5e-06")

    def draw(number: int, attempt: int) -> Any:
        return f"kind {number}"

    exact: Any = "exact"
    monkeypatch.setattr(golden, "replay", replay)
    assert golden._stable(draw, 7, exact, ["noisy"]) == "kind 8"  # type: ignore[list-item,comparison-overlap]
    (line,) = caplog.messages
    assert line.startswith("golden recommend case 7: ranker: expected a difference of at most 5e-06; none of 20 such")
    assert line.endswith("a request of another kind takes its place")


def test_each_attempt_for_a_stable_response_is_another_request(small_run: Run) -> None:
    for number in range(golden.CASES):
        rng = np.random.default_rng(number)
        requests = {
            msgspec.json.encode(golden._recommend(small_run, rng, number, attempt))
            for attempt in range(golden.MAX_DRAWS)
        }
        assert len(requests) == golden.MAX_DRAWS, number


def test_golden_cases_cover_all_paths(demo_bundle: Path) -> None:
    golden = Engine.open(demo_bundle).golden()
    assert min(len(golden.classify), len(golden.recommend)) >= 64
    assert {case.expected.source for case in golden.recommend} == {"hybrid", "collab", "history", "content", "popular"}
    assert {case.request.limit for case in golden.recommend} == {1, 10, 100}
    assert {bool(case.request.exclude_ids) for case in golden.recommend} == {True, False}
    assert {case.request.audio_features is None for case in golden.classify} == {True, False}
    assert {case.request.popularity is None for case in golden.classify} == {True, False}


def test_a_booster_of_another_objective_is_refused(demo_run: Run, tmp_path: Path) -> None:
    booster = type(demo_run.genre.booster)(n_estimators=2, objective="binary:logistic")
    booster.fit(np.random.default_rng(0).random((20, 17)), np.arange(20) % 2)
    with pytest.raises(ValueError, match="expected gbtree with multi:softprob, found None with binary:logistic"):
        genre.convert(
            demo_run.with_models(genre=replace(demo_run.genre, booster=booster)),
            PartWriter("genre", BundleWriter(tmp_path, LAYOUT)),
        )


def test_existing_bundle_is_not_overwritten(small_run: Run, small_bundle: Path, tmp_path: Path) -> None:
    """With `replace` it is, by the same bundle that the run gave before it was stored and loaded."""
    path = tmp_path / "small-1.0.0"
    path.mkdir()
    (path / "mine").touch()
    with pytest.raises(OutputError, match="expected a free name"):
        export.export(small_run, path)
    assert [item.name for item in path.iterdir()] == ["mine"]
    again = export.export(small_run, path, replace=True)
    assert not (path / "mine").exists()
    assert (again.path / "manifest.json").read_bytes() == (small_bundle / "manifest.json").read_bytes()


def test_second_of_two_builds_fails_before_training(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "demo-1.0.0.build"):
        result = CliRunner().invoke(cli.build, [str(DEMO), "--out", str(tmp_path), "--replace"])
    assert isinstance(result.exception, OutputError)
    assert "expected no other writer, found one; wait until it has finished" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["genre", "mood", "ranker"])
def test_graphs_do_not_depend_on_the_machine(demo_bundle: Path, part: str) -> None:
    content = (demo_bundle / part / "model.onnx").read_bytes()
    model = onnx.load_from_string(content)
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert b"/" not in b"".join(item.name.encode() for item in model.graph.initializer)
    assert not {node.op_type for node in model.graph.node} & {"Dropout", "BatchNormalization"}
    assert onnx_graphs.to_bytes(model) == content


def test_manifest_has_no_path_time_or_host_name(demo_bundle: Path) -> None:
    text = (demo_bundle / "manifest.json").read_text()
    assert str(demo_bundle.parent) not in text
    assert str(Path.cwd()) not in text
    assert set(json.loads(text)["files"]) == set(LAYOUT.files)


def test_provenance_has_the_exact_recipe(demo_bundle: Path) -> None:
    provenance = open_bundle(demo_bundle).manifest.provenance
    assert provenance.recipe.encode() == DEMO.read_bytes()
    assert provenance.recipe_sha256 == hashlib.sha256(DEMO.read_bytes()).hexdigest()


def test_bundle_writer_refuses_undeclared_files_and_dtypes(tmp_path: Path) -> None:
    files = BundleWriter(tmp_path, LAYOUT)
    with pytest.raises(KeyError, match="not a file of the bundle format"):
        files.add_bytes("genre/other.onnx", b"")
    with pytest.raises(TypeError, match=r"catalog/moods.npy: expected \|u1, found <i8"):
        files.add_array("catalog/moods.npy", np.zeros(3, np.int64))
    assert not list(tmp_path.rglob("*.npy"))


def test_lists_have_nothing_that_a_listener_has_heard(demo_run: Run, engine: Engine) -> None:
    """Also of the listening that was held out from training."""
    collab, listening = engine.retriever.collab, demo_run.interactions
    assert len(collab.history_rows) == len(listening) > 1.2 * len(demo_run.collab.history_rows)
    for name in listening.names[::25]:
        heard = set(listening.row[listening.listener == listening.names.index(name)].tolist())
        assert set(collab.history(collab.listeners.find_one(name)).tolist()) == heard
        shown = engine.recommend(RecommendRequest(user_id=name, limit=50)).recommendations
        assert not heard & {engine.catalog.row(track.id) for track in shown}
