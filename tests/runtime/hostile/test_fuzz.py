"""A thousand bundles with right hashes and hostile content are refused or harmless; see tests/fuzz."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

MUTATIONS = 1000
PARTS = [(base, seed) for base in ("flat", "ivf") for seed in (0, 1_000_000)]


@pytest.mark.parametrize(("base", "seed"), PARTS)
def test_hostile_bundles_are_refused_or_harmless(base: str, seed: int) -> None:
    """Run in a separate process, as it forks, and the process of the tests may have threads."""
    count = MUTATIONS // len(PARTS)
    command = [sys.executable, "-m", "tests.fuzz", "--bundle", base, "--seed", str(seed), "--count", str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert f"{count} mutations" in done.stdout
