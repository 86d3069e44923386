"""The comparison with few requests to the demo, and its simulation. The results are checked, not the speed."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from musix_trainer.run import Run
from perf import scale
from perf.peers import PEERS, AbsentError, Place
from tests.conftest import ROOT

CELL = {"throughput", "p50_ms", "p95_ms", "p99_ms", "requests", "cpu_s_per_1000"}


def test_comparison_has_all_figures_and_exact_answers(demo_run: Run, demo_bundle: Path, tmp_path: Path) -> None:
    demo_run.save(tmp_path / "run")
    asked = ["--bundle", demo_bundle, "--run", tmp_path / "run", "--work", tmp_path, "--peers", "musix,floor"]
    bounds = ["--requests", "40", "--seconds", "5", "--checked", "40", "--starts", "1"]
    files = ["--json", tmp_path / "found.json", "--markdown", tmp_path / "found.md"]
    command = [sys.executable, "-m", "perf.compare", *asked, *bounds, *files]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    result = json.loads((tmp_path / "found.json").read_bytes())
    assert result["recall_at_10"] == 1.0
    assert set(result["peers"]) == {"musix", "floor"}
    assert result["peers"]["musix"]["classify_error"] == result["peers"]["musix"]["score_error"] == 0
    for peer in result["peers"].values():
        for question in ("recommend", "classify"):
            assert set(peer[question]) == {"1", "8", "16", "32"}
            assert all(set(cell) == CELL and cell["requests"] == 40 for cell in peer[question].values())
        assert peer["cold_start_s"] > 0
        assert peer["private_mb"] > 0
    assert len(result["peers"]["musix"]["two_workers"]["private_mb"]) == 2
    assert result["against"]["floor"]["musix"]["recommend"]["8"]["throughput"] > 0
    assert "| musix | 1 | 0 | 0 |" in (tmp_path / "found.md").read_text()


def test_peer_that_is_not_installed_shows_the_missing_package(tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", with_pip=False)
    python = tmp_path / "empty" / "bin" / "python"
    (native,) = (peer for peer in PEERS if peer.name == "native")
    with pytest.raises(AbsentError, match="fastapi"):
        native.versions(Place(tmp_path, tmp_path, python))


def test_simulation_is_deterministic_and_has_tastes(demo_run: Run) -> None:
    drawn, again = (scale.simulate(demo_run, 5000, 400) for _ in range(2))
    for part in ("catalog", "collab", "content"):
        for name, array in vars(getattr(drawn, part)).items():
            np.testing.assert_array_equal(array, vars(getattr(again, part))[name])
    assert len(drawn.catalogue) == 5000
    assert drawn.provenance.sources["catalogue"].simulated
    places = np.searchsorted(drawn.collab.rows, drawn.collab.history_rows)
    owner = np.repeat(np.arange(400), np.diff(drawn.collab.history_offsets))
    heard = np.einsum("ij,ij->i", drawn.collab.track_factors[places], drawn.collab.listener_factors[owner])
    shuffled = drawn.collab.listener_factors[np.random.default_rng(0).permutation(owner)]
    others = np.einsum("ij,ij->i", drawn.collab.track_factors[places], shuffled)
    assert heard.mean() > others.mean() + 1
