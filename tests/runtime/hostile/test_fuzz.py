"""A thousand bundles with right hashes and hostile content are refused or harmless; see tests/fuzz."""

import subprocess
import sys
from pathlib import Path

import pytest

from musix_runtime.models.parts import LAYOUT
from tests.conftest import ROOT
from tests.fuzz import bases
from tests.fuzz.draft import Draft
from tests.fuzz.mutate import mutated

MUTATIONS = 1000


def test_hostile_bundles_are_refused_or_harmless(small_bundle: Path, ivf_bundle: Path) -> None:
    """Run in a separate process, as it forks, and the process of the tests may have threads."""
    command = [sys.executable, "-m", "tests.fuzz", "--bundle", small_bundle, ivf_bundle, "--count", str(MUTATIONS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "1,000 mutations" in done.stdout


def test_a_node_may_get_its_own_attributes_again(small_bundle: Path) -> None:
    """A repeated field of protobuf that is extended by itself grows without end."""
    _, done = mutated(bases.base(str(small_bundle)), "onnx", 1239)
    assert done == "nodes: mood/model.onnx: node 16 Concat: swap"


def test_a_count_that_was_mutated_before_makes_no_array_of_gigabytes(small_bundle: Path) -> None:
    draft, _ = mutated(bases.base(str(small_bundle)), "manifest", 10_000_193)
    assert max(draft.manifest["counts"].values()) >= 2**31
    assert max(len(draft[name]) for name in LAYOUT.arrays) < 2**29


@pytest.mark.parametrize("listed", [1, [], {"mood/model.onnx": 1}])
def test_draft_with_a_mutated_manifest_and_file_is_written(small_bundle: Path, tmp_path: Path, listed: object) -> None:
    draft = Draft(bases.base(str(small_bundle)))
    draft.manifest["files"] = listed
    draft["mood/model.onnx"] = b"a"
    (tmp_path / "mood").mkdir()
    assert draft.write(tmp_path) == ["mood/model.onnx", "manifest.json"]
