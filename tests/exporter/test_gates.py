import json
import sys
from pathlib import Path

import pytest

from musix_exporter import cli, gates, resource_usage
from musix_exporter.build_report import BuildReport
from musix_exporter.gates import Gate
from musix_runtime import Engine
from musix_runtime.bundle.reader import Bundle
from musix_runtime.errors import GateError, RecipeError
from musix_runtime.models.parts import open_bundle
from musix_trainer import quality, recipe
from musix_trainer.models import parts
from musix_trainer.pipeline import inapplicable_keys, quality_keys
from musix_trainer.recipe import Bytes, Gates, Memory, Time
from tests.conftest import DEMO
from tests.recipes import SMALL

# Limits that every bundle is within, and ones that none can be.
EASY = Gates(
    {"genre.macro_f1": -1}, {"genre.ece": 2}, Bytes(total=10**12, mood=10**12), Memory(1e9), Time(1e9, 1e9, 1e9)
)
HARD = Gates({"genre.macro_f1": 2}, {"genre.ece": -1}, Bytes(total=1, mood=1), Memory(1e-9), Time(1e-9, 1e-9, 1e-9))
NAMES = [
    "genre.macro_f1",
    "genre.ece",
    "bytes.total",
    "bytes.mood",
    "memory.load_mb",
    "time.classify",
    "time.recommend",
    "time.similar",
]


@pytest.fixture(scope="module")
def bundle(demo_bundle: Path) -> Bundle:
    return open_bundle(demo_bundle)


@pytest.mark.parametrize(("settings", "passed"), [(EASY, True), (HARD, False)])
def test_all_gates_are_measured_and_compared(bundle: Bundle, settings: Gates, passed: bool) -> None:
    results = gates.measure(bundle, settings)
    assert [item.name for item in results] == NAMES
    assert {item.passed for item in results} == {passed}


def test_gates_measure_the_bundle(bundle: Bundle) -> None:
    results = {item.name: item.found for item in gates.measure(bundle, EASY)}
    assert results["genre.macro_f1"] == bundle.manifest.quality["genre"]["macro_f1"]
    assert results["bytes.mood"] == (bundle.path / "mood" / "model.onnx").stat().st_size
    everything = sum(file.stat().st_size for file in bundle.path.rglob("*") if file.is_file())
    assert results["bytes.total"] == everything - (bundle.path / "manifest.json").stat().st_size


@pytest.mark.skipif(sys.platform != "linux", reason="private memory is read from /proc")
def test_private_memory_of_an_open_bundle(bundle: Bundle) -> None:
    """An interpreter with numpy and ONNX Runtime needs more than 5 MB, and without training libraries less than 500."""
    results = resource_usage.private_mb(bundle.path)
    assert results is not None
    assert 5 < results < 500


def test_time_ratio_of_an_unknown_method_raises(engine: Engine) -> None:
    with pytest.raises(KeyError):
        resource_usage.time_ratio(engine, "unheard-of")


def test_the_demo_reaches_its_gates(bundle: Bundle) -> None:
    settings = recipe.read(DEMO).recipe.gates
    timeless = Gates(settings.at_least, settings.at_most, settings.bytes)
    results = gates.measure(bundle, timeless)
    assert len(results) == len(settings.at_least) + len(settings.at_most) + 8
    assert [item for item in results if not item.passed] == []


def test_gate_on_an_unknown_figure_is_refused(bundle: Bundle) -> None:
    with pytest.raises(RecipeError) as caught:
        gates.measure(bundle, Gates(at_most={"hybrid.hybrid.ndcg": 1}))
    assert str(caught.value).startswith(
        "demo-1.0.0: gates.at_most: 'hybrid.hybrid.ndcg': expected a figure of this run's quality card;"
        " the nearest are hybrid.hybrid.ndcg_at_10"
    )


def test_the_known_keys_are_those_of_a_quality_card(bundle: Bundle) -> None:
    results = set(bundle.manifest.metrics())
    known = quality_keys()
    assert results <= known
    missing = {key for key in known if "unknown_artists" in key or "by_mood" in key}
    assert known - results <= missing | inapplicable_keys(bundle.manifest.quality)


def test_the_keys_of_a_quality_card_are_identifiers(bundle: Bundle) -> None:
    for key in bundle.manifest.metrics():
        assert all(name.isidentifier() and name == name.lower() for name in key.split(".")), key


def test_build_with_a_gate_on_an_unknown_figure_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SMALL + '[gates.at_least]\n"genre.macrof1" = 0.5\n')
    with pytest.raises(RecipeError) as caught:
        build(tmp_path / "small.toml", tmp_path / "out")
    assert str(caught.value) == (
        f"{tmp_path}/small.toml: gates.at_least: 'genre.macrof1': expected a key of the quality card; the nearest are"
        f" {quality.nearest('genre.macrof1', quality_keys())}"
    )
    assert "genre.macro_f1" in str(caught.value)
    assert not (tmp_path / "out").exists()


def build(recipe_path: Path, out: Path, *options: str) -> None:
    """Run `musix build` in this process."""
    cli.build.main([str(recipe_path), "--out", str(out), *options], standalone_mode=False)


def test_gate_error_has_the_failed_gates() -> None:
    floor = Gate("genre.macro_f1", 0.5, "at least", 0.9, passed=False)
    ceiling = Gate("bytes.total", 3_000_000, "at most", 1, passed=False)
    fine = Gate("genre.ece", 0.01, "at most", 0.05, passed=True)
    with pytest.raises(GateError) as caught:
        gates.check([floor, fine, ceiling], "a-1.0.0", Path("runs/a-1.0.0"))
    assert str(caught.value) == (
        "a-1.0.0: 2 of 3 gates failed: genre.macro_f1: expected at least 0.9, found 0.5; "
        "bytes.total: expected at most 1, found 3,000,000. No bundle was written; the run is in runs/a-1.0.0, "
        "and musix export makes a bundle of it without gates"
    )
    gates.check([fine], "a-1.0.0", Path("runs"))


def test_model_below_a_simple_baseline_fails(bundle: Bundle) -> None:
    """A metric may be 2 % below its baseline; others, and metrics that the card lacks, are no floors."""
    card = bundle.manifest.metrics()
    metric, lower = "genre.macro_f1", "genre.ece"
    assert card[lower] < card[metric]
    floors = {metric: lower, lower: metric, "genre.unheard_of": metric}
    assert [item.passed for item in gates.floors(bundle.manifest, floors)] == [True, False]


def test_every_floor_is_on_the_card(bundle: Bundle) -> None:
    assert len(gates.floors(bundle.manifest, parts.floors())) == len(parts.floors()) == 3


def test_figure_that_cannot_be_measured_passes_and_is_reported(bundle: Bundle) -> None:
    gate = Gate("memory.load_mb", None, "at most", 1, passed=True)
    result = BuildReport.of(bundle, [gate], Path("here"), Path("run"))
    assert "| memory.load_mb | not measured | at most 1 | skipped |" in result.markdown()


def test_report_without_gates(bundle: Bundle) -> None:
    result = BuildReport.of(bundle, gates.measure(bundle, Gates()), Path("here"), Path("run"))
    assert result.passed
    assert "None." in result.markdown()
    assert "  0 of 0 gates passed:" in result.lines()
    assert "  musix inspect here shows the whole card" in result.lines()
    total = sum(file.bytes for file in bundle.manifest.files.values())
    assert any(line.startswith(f"  {total:,} bytes;") for line in result.lines())


def test_a_build_that_fails_a_gate_leaves_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 3. Both reports and the run are written, and the older bundle is kept."""
    (tmp_path / "small.toml").write_text(SMALL + '[gates.bytes]\ntotal = 1\n[gates.at_most]\n"genre.ece" = 1\n')
    older = tmp_path / "out" / "small-1.0.0" / "older"
    older.parent.mkdir(parents=True)
    older.touch()
    reports = ["--json", str(tmp_path / "r" / "small.json"), "--summary", str(tmp_path / "r" / "small.md")]
    with pytest.raises(GateError) as caught:
        build(tmp_path / "small.toml", tmp_path / "out", "--replace", *reports)
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith("small-1.0.0: 1 of 5 gates failed: bytes.total: expected at most 1, found ")
    assert f"No bundle was written; the run is in {tmp_path}/out/runs/small-1.0.0, " in str(caught.value)
    printed = capsys.readouterr().out
    assert "FAILED" in printed
    assert f"  musix runs --all {tmp_path}/out/runs/small-1.0.0 shows the whole card\n" in printed
    result = json.loads((tmp_path / "r" / "small.json").read_bytes())
    assert (result["label"], result["path"], result["passed"]) == ("small-1.0.0", None, False)
    failed = [item["name"] for item in result["gates"] if not item["passed"]]
    assert failed == ["bytes.total"]
    assert set(result["parity"]) < set(result["sizes"])
    summary = (tmp_path / "r" / "small.md").read_text()
    assert summary.startswith("# small-1.0.0: not built, a gate failed\n")
    assert "| at most 1 | FAILED |" in summary
    assert sorted(item.name for item in (tmp_path / "out").iterdir()) == ["runs", "small-1.0.0"]
    assert list(older.parent.iterdir()) == [older]
    assert (tmp_path / "out" / "runs" / "small-1.0.0" / "run.json").is_file()
