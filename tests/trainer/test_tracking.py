"""Runs are logged to MLflow, into a real store of files, if MLFLOW_TRACKING_URI is set."""

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from musix_runtime.errors import InputError
from musix_trainer import cli, curves, tracking
from musix_trainer.run import Run
from tests.recipes import SMALL


def test_missing_extra_is_named_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    (tmp_path / "small.toml").write_text(SMALL)
    with pytest.raises(InputError, match=r"needs mlflow.*pip install 'musix-edge\[mlflow\]'"):
        CliRunner().invoke(cli.train, [str(tmp_path / "small.toml"), "--out", str(tmp_path)], catch_exceptions=False)
    assert not (tmp_path / "runs").exists()


def test_nothing_is_logged_without_an_address(small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    run = Run.load(small_folder)
    tracking.check(run.recipe_file)
    tracking.log(small_folder, run.recipe_file, run.quality)


def test_failure_after_the_training_is_reported(
    small_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    run = Run.load(small_folder)
    tracking.log(small_folder, run.recipe_file, run.quality)
    assert "not logged to MLflow: MLFLOW_TRACKING_URI: needs mlflow" in capsys.readouterr().err


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a store of files, which runs are tracked in."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    return MlflowClient((tmp_path / "store").as_uri())


@pytest.mark.filterwarnings("ignore")  # of MLflow's own imports
def test_commands_log_to_one_run(small_folder: Path, store: Any) -> None:
    """Recipe, card and curves come from the training, digest and evaluation from later commands."""
    run = Run.load(small_folder)
    tracking.check(run.recipe_file)
    tracking.log(small_folder, run.recipe_file, run.quality, run.points)
    tracking.log(small_folder, run.recipe_file, {}, digest="d1")
    figure = {"value": 0.5, "low": 0.4, "high": 0.6, "better_by": {"rule": {"value": 0.1}}}
    tracking.log(small_folder, run.recipe_file, {"evaluation": {"mood": {"perceived": {"ece": figure}}}})

    (logged,) = store.search_runs([store.get_experiment_by_name("small").experiment_id])
    assert logged.info.run_name == "small-1.0.0"
    assert logged.info.status == "FINISHED"
    assert logged.data.params["genre.epochs"] == "3"
    assert logged.data.params["name"] == "small"
    assert logged.data.tags[tracking.DIGEST] == "d1"
    assert logged.data.tags[tracking.RECIPE] == run.provenance.recipe_sha256
    assert logged.data.metrics["genre.macro_f1"] == run.quality["genre"]["macro_f1"]
    assert logged.data.metrics["evaluation.mood.perceived.ece.low"] == 0.4
    assert not any("better_by" in name for name in logged.data.metrics)
    for part, metric, points in curves.curves(run.points):
        history = store.get_metric_history(logged.info.run_id, f"{part}.{metric}")
        assert [(each.step, each.value) for each in history] == [(point.step, point.value) for point in points]


@pytest.mark.filterwarnings("ignore")
def test_unusable_store_is_an_error(small_folder: Path, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://store")
    with pytest.raises(InputError, match="expected a store that MLflow can use, found nonsense://store"):
        tracking.check(Run.load(small_folder).recipe_file)
