"""Learning curves, the table of runs, and runs that must not be replaced."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from musix_exporter import cli as exporter_cli
from musix_runtime.errors import InputError
from musix_trainer import cli, curves, runs
from musix_trainer.curves import Point
from musix_trainer.run import Run
from tests.recipes import SMALL


def test_run_has_the_curves_of_its_training(demo_run: Run, demo_folder: Path) -> None:
    losses = {part: points for part, metric, points in curves.curves(demo_run.points) if metric == "validation_loss"}
    assert losses.keys() >= {"mood", "ranker"}
    for part, points in losses.items():
        assert [point.step for point in points] == list(range(1, len(points) + 1))
        assert min(points, key=lambda point: point.value).step == demo_run.quality[part]["best_epoch"]
    lines = (demo_folder / curves.FILE).read_text().splitlines()
    assert [Point(**json.loads(line)) for line in lines] == list(demo_run.points)


def test_run_has_the_curves_of_lightfm_and_xgboost(demo_run: Run) -> None:
    """The library's models are measured on validation after their epochs and rounds, and learn there."""
    by_metric = {(part, metric): points for part, metric, points in curves.curves(demo_run.points)}
    settings = demo_run.recipe
    epochs, rounds = settings.genre.epochs, settings.genre.n_estimators
    assert [point.step for point in by_metric["genre", "lightfm_validation_hit_at_1"]] == list(range(1, epochs + 1))
    for name in ("xgboost", "titles", "sound", "audio"):
        points = by_metric["genre", f"{name}_validation_loss"]
        assert points[-1].step == rounds
        assert points[-1].value < points[0].value
    ranking = by_metric["collab", "validation_ndcg_at_10"]
    assert ranking[-1].step == settings.collab.epochs
    assert ranking[-1].value > 0


def test_nothing_is_recorded_outside_of_a_recording() -> None:
    curves.record("mood", 1, train_loss=0.5)
    with curves.recording() as points:
        curves.record("mood", 2, train_loss=0.4)
    assert points == [Point("mood", "train_loss", 2, 0.4)]


@pytest.mark.parametrize(("metric", "best"), [("train_loss", "0.1 at 2"), ("ndcg_at_10", "0.4 at 1")])
def test_summary_tells_the_best_value(metric: str, best: str) -> None:
    points = [Point("a", metric, step, value) for step, value in ((1, 0.4), (2, 0.1), (3, 0.2))]
    assert curves.summary(("a", metric, points)) == f"a: {metric} 0.4 at step 1, best {best}, last 0.2 at 3"


@pytest.mark.parametrize("command", [cli.train, exporter_cli.build])
def test_evaluated_run_is_not_replaced(command: cli.click.Command, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    results = tmp_path / "runs" / "small-1.0.0" / "evaluation" / "genre.json"
    results.parent.mkdir(parents=True)
    results.write_text("{}")
    with pytest.raises(InputError, match=r"expected no run with an evaluation.*--replace"):
        CliRunner().invoke(command, [str(tmp_path / "small.toml"), "--out", str(tmp_path)], catch_exceptions=False)
    assert results.read_text() == "{}"


def test_runs_are_compared_by_the_metrics_with_gates(demo_folder: Path, tmp_path: Path) -> None:
    for name, value in (("a", 0.25), ("b", 0.5)):
        (tmp_path / name).mkdir()
        shutil.copy(demo_folder / "recipe.toml", tmp_path / name)
        card = json.loads((demo_folder / "run.json").read_bytes())
        card["quality"]["genre"]["macro_f1"] = value
        (tmp_path / name / "run.json").write_text(json.dumps(card))
    result = CliRunner().invoke(cli.runs, [str(tmp_path)], catch_exceptions=False)
    head, *rows = (line.split() for line in result.stdout.splitlines())
    assert head == ["metric", str(tmp_path / "a"), str(tmp_path / "b")]
    assert ["genre.macro_f1", "0.2500", "0.5000"] in rows
    found = runs.find([tmp_path / "b"])
    assert len(runs.table(found, every=True)) > len(runs.table(found))


def test_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a run folder or a folder of runs, found no run\.json"):
        runs.find([tmp_path])
