"""The plain install in a second environment: it serves a bundle without the training libraries.

There the server and the libraries that read the files of a bundle are the oldest that pyproject.toml allows; elsewhere
they are the newest.
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import DEMO, ROOT

OLDEST = ("onnxruntime", "faiss-cpu", "uvicorn")
HEAVY = ("torch", "xgboost", "lightfm", "sklearn", "scipy", "onnx", "onnxmltools", "skl2onnx", "polars", "pandas")


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with only `pip install .`."""
    path = tmp_path_factory.mktemp("light") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True)
    pip = [sys.executable, "-m", "pip", "--python", path / "bin" / "python"]
    subprocess.run([*pip, "install", "--quiet", "--no-compile", ROOT, *_oldest()], check=True, capture_output=True)
    return path / "bin"


def _oldest() -> list[str]:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [item.replace(">=", "==") for item in dependencies if item.startswith(OLDEST)]


def test_training_stack_is_not_installed(light: Path) -> None:
    code = f"import importlib.util as u; print([n for n in {HEAVY} if u.find_spec(n)])"
    assert subprocess.run([light / "python", "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_light_install_serves_a_bundle(light: Path, demo_bundle: Path) -> None:
    environment = {**os.environ, "PATH": f"{light}:{os.environ['PATH']}"}
    asked = subprocess.run(
        [light / "python", ROOT / "examples" / "ask_over_http.py", demo_bundle],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=light,
    )
    assert '"source":"hybrid"' in asked.stdout.replace(" ", "")


def test_command_of_a_missing_extra_shows_how_to_install_it(light: Path) -> None:
    result = subprocess.run([light / "musix", "build", DEMO], capture_output=True, text=True, check=False, cwd=light)
    assert result.returncode == 2
    assert result.stderr.startswith("error: musix build: needs ")
    assert result.stderr.endswith("install it with: pip install 'musix-edge[export]'\n")
    helped = subprocess.run([light / "musix", "--help"], capture_output=True, text=True, check=True).stdout
    assert "build" in helped
