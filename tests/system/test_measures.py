"""The benchmark commands on the demo, for some seconds. The results are checked, not the speed."""

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


def test_profile_has_all_stages(demo_bundle: Path, tmp_path: Path) -> None:
    done = run("perf.profile", demo_bundle, "--count", 50, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "found.json").read_bytes())
    assert list(result["recommend"]) == [*RECOMMEND_STAGES, "JSON", "whole"]
    assert result["recommend"]["whole"]["p50_us"] > max(
        result["recommend"][stage]["p50_us"] for stage in RECOMMEND_STAGES
    )
    assert result["batch_tracks_per_s"] > 0


def test_overload_causes_rejections_but_no_failures(demo_bundle: Path, tmp_path: Path) -> None:
    done = run("perf.overload", demo_bundle, "--seconds", 2, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "found.json").read_bytes())
    assert result["failed"] == 0
    assert result["shed"] > 0
    assert result["served_p95_ms"] > 0


@pytest.mark.parametrize(("gate", "status"), [(60_000, 0), (0.001, 1)])
def test_load_stops_at_its_gate_and_writes_a_report(
    demo_bundle: Path, tmp_path: Path, gate: float, status: int
) -> None:
    page = tmp_path / "load.html"
    done = run("perf.load", demo_bundle, "--seconds", 3, "--users", 4, "--p95-ms", gate, "--html", page)
    assert done.returncode == status, done.stderr
    assert "/api/ml/recommend" in page.read_text()
