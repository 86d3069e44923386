"""The same recipe gives the same digest: in another folder, with other hash seed, threads and time zone."""

import os
import subprocess
import sys
from pathlib import Path

from musix_runtime.models.parts import open_bundle
from tests.recipes import SMALL

MUSIX = Path(sys.executable).with_name("musix")
ENVIRONMENT = {"PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3", "TZ": "Asia/Tokyo"}


def test_build_in_another_environment_has_the_same_digest(small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    built = subprocess.run(
        [MUSIX, "build", "small.toml"],
        cwd=tmp_path,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    one, another = open_bundle(small_bundle), open_bundle(tmp_path / "build" / "small-1.0.0")
    assert one.manifest.files == another.manifest.files
    assert one.digest == another.digest
