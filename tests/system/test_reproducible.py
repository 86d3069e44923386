"""The same recipe gives the same digest: in another process and folder, with other hash seed, threads and time zone."""

import json
import os
import subprocess
from pathlib import Path

from musix_runtime.models.parts import open_bundle
from tests.conftest import MUSIX

ENVIRONMENT = {"PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3", "TZ": "Asia/Tokyo"}


def test_rebuild_in_another_environment_is_equal(small_bundle: Path, tmp_path: Path) -> None:
    rebuilt = subprocess.run(
        [MUSIX, "rebuild", small_bundle, "--json"],
        cwd=tmp_path,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert rebuilt.returncode == 0, rebuilt.stderr
    result = json.loads(rebuilt.stdout)
    assert result["equal"] is True
    assert result["rebuilt"] == open_bundle(small_bundle).digest
    assert list(tmp_path.iterdir()) == []
