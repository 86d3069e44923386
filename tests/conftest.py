"""The demo, trained and exported once for all tests."""

import shutil
from pathlib import Path

import pytest

from musix_exporter import pack
from musix_runtime import Engine
from musix_trainer import recipe, run, synthetic

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "bundles" / "demo.toml"


@pytest.fixture(scope="session")
def demo_run() -> run.Run:
    return run.train(recipe.read(DEMO), None)


@pytest.fixture(scope="session")
def demo_bundle(demo_run: run.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack.export(demo_run, tmp_path_factory.mktemp("bundles") / demo_run.recipe.label).path


@pytest.fixture(scope="session")
def engine(demo_bundle: Path) -> Engine:
    return Engine.open(demo_bundle)


@pytest.fixture(scope="session")
def world() -> synthetic.World:
    settings = recipe.read(DEMO).recipe
    return synthetic.world(settings.synthetic, settings.seed)


@pytest.fixture
def copy(demo_bundle: Path, tmp_path: Path) -> Path:
    """A bundle to break."""
    return Path(shutil.copytree(demo_bundle, tmp_path / demo_bundle.name))
