"""The same recipe gives the same digest: in processes of other folders, hash seeds, threads and time zones."""

import os
import subprocess
import sys
from pathlib import Path

from musix_runtime.models.parts import open_bundle
from tests.recipes import SMALL

MUSIX = Path(sys.executable).with_name("musix")
WORLDS = {
    "one": {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TZ": "UTC"},
    "another": {"PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3", "TZ": "Asia/Tokyo"},
}


def test_two_builds_have_the_same_digest(tmp_path: Path) -> None:
    building = []
    for name, environment in WORLDS.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "small.toml").write_text(SMALL)
        building.append(
            subprocess.Popen(
                [MUSIX, "build", "small.toml"],
                cwd=folder,
                env={**os.environ, **environment},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    assert [item.wait() for item in building] == [0, 0]
    one, another = (open_bundle(tmp_path / name / "build" / "small-1.0.0") for name in WORLDS)
    assert one.manifest.files == another.manifest.files
    assert one.digest == another.digest
