"""The demo, trained and exported once for all tests."""

import shutil
from pathlib import Path

import pytest

from musix_exporter import export
from musix_runtime import Engine
from musix_trainer import recipe, run
from musix_trainer.data import synthetic

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "bundles" / "demo.toml"
SMALL = """
name = "small"
version = "1.0.0"
source = "synthetic"
[synthetic]
tracks = 800
listeners = 100
[genre]
epochs = 3
n_estimators = 10
[mood]
epochs = 3
[collab]
epochs = 3
[ranker]
epochs = 2
"""


@pytest.fixture(scope="session")
def demo_run() -> run.Run:
    return run.train(recipe.read(DEMO), None)


@pytest.fixture(scope="session")
def demo_bundle(demo_run: run.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export.export(demo_run, tmp_path_factory.mktemp("bundles") / demo_run.recipe.label).path


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that is trained in seconds, badly; its recipe lies beside it."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.toml").write_text(SMALL)
    trained = run.train(recipe.read(folder / "small.toml"), None)
    return export.export(trained, folder / trained.recipe.label).path


@pytest.fixture(scope="session")
def engine(demo_bundle: Path) -> Engine:
    return Engine.open(demo_bundle)


@pytest.fixture(scope="session")
def world() -> synthetic.World:
    settings = recipe.read(DEMO).recipe
    return synthetic.generate(settings.synthetic, settings.seed)


@pytest.fixture
def copy(demo_bundle: Path, tmp_path: Path) -> Path:
    """A bundle to break."""
    return Path(shutil.copytree(demo_bundle, tmp_path / demo_bundle.name))
