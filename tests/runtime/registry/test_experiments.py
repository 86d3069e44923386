import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from musix_runtime import Registry
from musix_runtime.errors import BundleError, StoreError, UnknownExperimentError
from musix_runtime.registry import experiments, rollouts
from musix_runtime.registry.experiments import Experiment
from tests.bundle_variants import copy_registry, flip

MUSIX = Path(sys.executable).with_name("musix")
WANTED: dict[str, Any] = {"treatment": "1.1.0", "control": "1.0.0", "share": 0.2, "listeners": 1000, "now_ms": 5}
PLUGIN = """
import click

@click.command()
def verdict():
    "Show the verdict."
    click.echo("no difference")

@click.command()
def plot():
    import no_such_library
"""


@pytest.fixture
def store(published: Path, tmp_path: Path) -> Registry:
    """A registry with 1.0.0 and the live version 1.1.0."""
    return copy_registry(published, tmp_path / "store", ["1.1.0", "1.0.0"])


def start(store: Registry, **changes: Any) -> Experiment:
    return experiments.start(store, "demo", **(WANTED | changes))


def file(store: Registry, number: int = 1) -> Path:
    return store.path / "demo" / "experiments" / f"{number}.json"


def musix(*arguments: object, path: str = "") -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {path!r}); from musix_runtime.cli.main import main; main()"
    command = [sys.executable, "-c", code, "experiment", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_experiment_starts_and_stops(store: Registry) -> None:
    assert experiments.running(store, "demo") is None
    started = start(store)
    assert started == Experiment(
        name="demo",
        number=1,
        control="1.0.0",
        treatment="1.1.0",
        share=0.2,
        listeners=1000,
        metric="skip_rate",
        salt="demo/1",
        started_ms=5,
    )
    assert experiments.running(store, "demo") == experiments.read(store, "demo") == started
    stopped = experiments.stop(store, "demo", 7)
    assert (stopped.id, stopped.stopped_ms) == ("demo/1", 7)
    assert experiments.running(store, "demo") is None
    assert experiments.read(store, "demo", 1) == stopped


def test_numbers_go_on_and_only_one_runs(store: Registry) -> None:
    start(store)
    with pytest.raises(
        StoreError, match=r"expected no running experiment, found demo/1; use: musix experiment stop /\S+ demo$"
    ):
        start(store)
    experiments.stop(store, "demo", 7)
    second = start(store, metric="save_rate", salt="pepper")
    assert (second.id, second.metric, second.salt) == ("demo/2", "save_rate", "pepper")
    assert [each.number for each in experiments.read_all(store, "demo")] == [1, 2]


def test_the_control_is_by_default_the_live_version(store: Registry) -> None:
    assert start(store, control=None, treatment="1.0.0").control == "1.1.0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 0.0}, r"demo: Expected .* >= 1e-06.*share"),
        ({"share": 1.0}, r"Expected `float` < 1"),
        ({"share": float("nan")}, r"Expected `float` >= 1e-06"),
        ({"listeners": 99}, r"Expected `int` >= 100"),
        ({"metric": "mood"}, r"Invalid enum value 'mood'"),
        ({"treatment": "external"}, r"demo: treatment: expected a version, popular or blend, found 'external'"),
        ({"control": "latest"}, r"control: expected a version, popular or blend or external, found 'latest'"),
        ({"control": "1.1.0"}, r"treatment: expected another one than the control, found '1.1.0'"),
        ({"treatment": "3.0.0"}, r"demo: expected a published version, found 3.0.0, which is missing"),
    ],
)
def test_wrong_values_are_refused(store: Registry, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        start(store, **changes)
    assert not file(store).exists()


def test_an_unknown_name_is_refused(store: Registry) -> None:
    with pytest.raises(StoreError, match="expected one of the names demo, found 'other'"):
        experiments.start(store, "other", **WANTED)
    with pytest.raises(StoreError, match="expected a name of a-z"):
        experiments.running(store, "../demo")


def test_a_broken_version_is_refused(store: Registry) -> None:
    flip(store.path / "demo" / "1.0.0" / "mood" / "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx: expected SHA-256"):
        start(store)
    start(store, control="popular")  # which needs no version


def test_what_does_not_exist_is_an_error(store: Registry) -> None:
    with pytest.raises(StoreError, match="expected a running experiment, found none"):
        experiments.stop(store, "demo", 7)
    with pytest.raises(StoreError, match="expected one of the names demo, found 'dmeo'"):
        experiments.read(store, "dmeo")
    with pytest.raises(UnknownExperimentError, match="demo: expected an experiment, found none"):
        experiments.read(store, "demo")
    start(store)
    with pytest.raises(UnknownExperimentError, match=r"2\.json: expected an experiment, found none"):
        experiments.read(store, "demo", 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected JSON that can be read, found"),
        (b'{"name": "demo", "num', "expected JSON that can be read, found"),
        (b"[" * 60_000, "expected JSON that can be read, found"),
        (b"\xff", "expected JSON that can be read, found"),
        (b"[]", "expected an experiment, found: Expected `object`"),
        (b"{}", "expected an experiment, found: Object missing required field"),
        (b" " * 1_100_000, "expected at most 1,048,576 bytes, found 1,100,000"),
    ],
)
def test_a_hostile_file_is_one_error(store: Registry, content: bytes, message: str) -> None:
    start(store)
    file(store).write_bytes(content)
    with pytest.raises(StoreError, match=rf"1\.json: {message}"):
        experiments.running(store, "demo")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"number": 2}, "expected demo/1, found demo/2"),
        ({"name": "other"}, "expected demo/1, found other/1"),
        ({"share": "a"}, "Expected `float`"),
        ({"startedMs": 10**15}, "Expected `int` <= 253402300799999"),
        ({"colour": "red"}, "unknown field `colour`"),
        ({"treatment": "../1.0.0"}, "treatment: expected a version"),
    ],
)
def test_a_file_with_wrong_values_is_one_error(store: Registry, changes: dict[str, Any], message: str) -> None:
    start(store)
    file(store).write_text(json.dumps(json.loads(file(store).read_bytes()) | changes))
    with pytest.raises(StoreError, match=rf"1\.json: .*{message}"):
        experiments.running(store, "demo")


def test_a_link_is_not_followed(store: Registry, tmp_path: Path) -> None:
    start(store)
    file(store).rename(tmp_path / "1.json")
    file(store).symlink_to(tmp_path / "1.json")
    with pytest.raises(StoreError, match=r"1\.json: expected"):
        experiments.running(store, "demo")


def test_other_files_are_no_experiments(store: Registry) -> None:
    start(store)
    for name in ("0.json", "02.json", ".2.json.partial", "2.json~", "notes"):
        file(store).with_name(name).write_bytes(b"")
    assert [each.number for each in experiments.read_all(store, "demo")] == [1]


def test_gc_keeps_the_versions_of_a_running_experiment(store: Registry) -> None:
    start(store)
    assert store.gc("demo", keep=0) == []
    experiments.stop(store, "demo", 7)
    assert [path.name for path in store.gc("demo", keep=0)] == ["1.0.0"]


def test_commands(store: Registry) -> None:
    arguments = [store.path, "demo", "--treatment", "1.0.0", "--share", 0.2, "--listeners", 1000]
    started = musix("start", *arguments)
    assert started.stdout.startswith("experiment demo/1: treatment 1.0.0 for 20%, control 1.1.0, skip_rate, started 20")
    assert started.stdout.endswith(", running\n")
    again = musix("start", *arguments)
    assert (again.returncode, again.stderr[:7]) == (2, "error: ")
    assert "running" not in musix("stop", store.path, "demo").stdout
    assert len(musix("list", store.path, "demo").stdout.splitlines()) == 1
    assert "expected one of the names demo, found 'dmo'" in musix("list", store.path, "dmo").stderr
    (listed,) = json.loads(musix("list", store.path, "demo", "--json").stdout)
    assert (listed["number"], listed["control"], listed["metric"]) == (1, "1.1.0", "skip_rate")
    assert listed["stoppedMs"] >= listed["startedMs"]


def test_the_list_tells_a_stage_of_a_rollout(store: Registry) -> None:
    store.rollback("demo")
    rollouts.start(store, "demo", "1.1.0", stages=(0.2, 1), stage_ms=0, listeners=100, now_ms=1)
    listed = musix("list", store.path, "demo").stdout
    assert listed.startswith("experiment demo/1, of rollout demo/1: treatment 1.1.0 for 20%, control 1.0.0, skip_rate")


def test_other_packages_add_commands(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    metadata = tmp_path / "plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    entries = "[musix.commands.experiment]\nverdict = plugin:verdict [evaluate]\nplot = plugin:plot [evaluate]\n"
    (metadata / "entry_points.txt").write_text(entries)
    assert musix("verdict", path=str(tmp_path)).stdout == "no difference\n"
    assert "Show the verdict." in musix("--help", path=str(tmp_path)).stdout
    done = musix("plot", path=str(tmp_path))
    assert done.returncode == 2
    assert "needs no_such_library; install it with: pip install 'musix-edge[evaluate]'" in done.stderr
