"""The demo, trained and exported once for all tests."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from musix_exporter import export
from musix_runtime import Engine
from musix_runtime.atomic import lock
from musix_trainer import recipe, run
from musix_trainer.data import synthetic
from tests.recipes import SMALL

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "bundles" / "demo.toml"
DEMO_LABEL = "demo-1.0.0"


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all processes of this test session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder if worker_id == "master" else folder.parent


@pytest.fixture(scope="session")
def demo_folder(shared: Path) -> Path:
    """The run folder of the demo."""
    with made_once(shared / "runs" / DEMO_LABEL) as path:
        if path:
            run.train(recipe.read(DEMO), None).save(path)
    return shared / "runs" / DEMO_LABEL


@pytest.fixture(scope="session")
def demo_run(demo_folder: Path) -> run.Run:
    return run.Run.load(demo_folder)


@pytest.fixture(scope="session")
def demo_bundle(shared: Path, demo_run: run.Run) -> Path:
    with made_once(shared / "bundles" / DEMO_LABEL) as path:
        if path:
            export.export(demo_run, path)
    return shared / "bundles" / DEMO_LABEL


@pytest.fixture(scope="session")
def small_bundle(shared: Path) -> Path:
    """A bundle that is trained in seconds, badly; its recipe lies beside it."""
    folder = shared / "small"
    with made_once(folder / "small-1.0.0") as path:
        if path:
            (folder / "small.toml").write_text(SMALL)
            export.export(run.train(recipe.read(folder / "small.toml"), None), path)
    return folder / "small-1.0.0"


@contextmanager
def made_once(path: Path) -> Iterator[Path | None]:
    """Yield `path` to the one process that makes it, and None to those that come later."""
    path.parent.mkdir(exist_ok=True)
    with lock(path.with_name(f"{path.name}.made"), wait=True):
        yield None if path.exists() else path


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
