"""The measuring commands as they are run, on the demo and for seconds: what they find, not how fast it was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from musix_runtime.timing import RECOMMEND_STAGES
from tests.conftest import ROOT


def run(module: str, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_profile_divides_the_whole_time_among_all_stages(demo_bundle: Path, tmp_path: Path) -> None:
    done = run("perf.profile", demo_bundle, "--count", 50, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_bytes())
    assert list(found["recommend"]) == [*RECOMMEND_STAGES, "JSON", "whole"]
    assert found["recommend"]["whole"]["p50_us"] > max(
        found["recommend"][stage]["p50_us"] for stage in RECOMMEND_STAGES
    )
    assert found["batch_tracks_per_s"] > 0


def test_under_overload_some_are_sent_away_and_nobody_fails(demo_bundle: Path, tmp_path: Path) -> None:
    done = run("perf.overload", demo_bundle, "--seconds", 2, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_bytes())
    assert found["failed"] == 0
    assert found["shed"] > 0
    assert found["served_p95_ms"] > 0


@pytest.mark.parametrize(("gate", "status"), [(60_000, 0), (0.001, 1)])
def test_the_load_ends_by_its_gate_and_leaves_a_report(
    demo_bundle: Path, tmp_path: Path, gate: float, status: int
) -> None:
    page = tmp_path / "load.html"
    done = run("perf.load", demo_bundle, "--seconds", 3, "--users", 4, "--p95-ms", gate, "--html", page)
    assert done.returncode == status, done.stderr
    assert "/api/ml/recommend" in page.read_text()
