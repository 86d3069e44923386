"""Bundles that are trained and exported once for all tests; and the order of the tests."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import onnx
import pytest
import torch
from hypothesis import settings

from musix_exporter import export, onnx_graphs
from musix_runtime import Engine, Registry
from musix_runtime.atomic import lock
from musix_trainer import pipeline, recipe
from musix_trainer.data import synthetic
from musix_trainer.run import Run
from tests.bundle_variants import variant
from tests.recipes import SMALL

settings.register_profile("musix", deadline=None)  # the machine may be busy with other tests
settings.load_profile("musix")

ROOT = Path(__file__).parents[1]
MUSIX = Path(sys.executable).with_name("musix")
DEMO = ROOT / "bundles" / "demo.toml"
DEMO_LABEL = "demo-1.0.0"
SMALL_LABEL = "small-1.0.0"
# Files of tests that take longest. They start first, so that at the end no process is left alone with one of them. The
# first needs no demo while the second one trains it.
LONGEST = (
    "test_evaluate",
    "test_documents",
    "test_fuzz",
    "test_year",
    "test_workers",
    "test_registry",
    "test_experiments",
    "test_rollouts",
    "test_main",
    "test_server",
    "test_playlists",
    "test_traffic",
    "test_swap",
    "test_flood",
    "test_kill",
    "test_serve_edges",
    "test_rollout",
    "test_reproducible",
    "test_notebooks",
    "test_worker",
    "test_model_manager",
    "test_experiment",
    "test_comparison",
    "test_moods",
    "test_measures",
    "test_mutations",
    "test_mood_teachers",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=5, help="how often a server is killed while it stores events")
    parser.addoption("--worker-kills", type=int, default=3, help="how often a worker is killed while it runs jobs")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all processes of this test session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder if worker_id == "master" else folder.parent


@pytest.fixture(scope="session")
def demo_build(shared: Path) -> Path:
    """The folder in which `musix build` made the demo: its bundle, its run, and what the command printed."""
    with made_once(shared / "demo") as path:
        if path:
            path.mkdir()
            with (path / "stdout").open("wb") as out, (path / "stderr").open("wb") as err:
                subprocess.run([MUSIX, "build", DEMO, "--out", path], cwd=path, stdout=out, stderr=err, check=True)
    return shared / "demo"


@pytest.fixture(scope="session")
def demo_folder(demo_build: Path) -> Path:
    """The run folder of the demo."""
    return demo_build / "runs" / DEMO_LABEL


@pytest.fixture(scope="session")
def demo_run(demo_folder: Path) -> Run:
    return Run.load(demo_folder)


@pytest.fixture(scope="session")
def demo_bundle(demo_build: Path) -> Path:
    return demo_build / DEMO_LABEL


@pytest.fixture(scope="session")
def small_bundle(shared: Path) -> Path:
    """A bundle that is trained in seconds, badly; its recipe lies beside it."""
    folder = shared / "small"
    with made_once(folder / SMALL_LABEL) as path:
        if path:
            (folder / "small.toml").write_text(SMALL)
            trained = pipeline.train(recipe.read(folder / "small.toml"), None)
            trained.save(shared / "runs" / SMALL_LABEL)
            export.export(trained, path)
    return folder / SMALL_LABEL


@pytest.fixture(scope="session")
def small_folder(shared: Path, small_bundle: Path) -> Path:
    """The run folder of the small bundle."""
    return shared / "runs" / SMALL_LABEL


@pytest.fixture(scope="session")
def small_run(small_folder: Path) -> Run:
    return Run.load(small_folder)


@pytest.fixture(scope="session")
def ivf_bundle(shared: Path, small_run: Run) -> Path:
    """The small bundle with clustered indexes, which search a part of the vectors."""
    with made_once(shared / "ivf" / SMALL_LABEL) as path:
        if path:
            settings = msgspec.structs.replace(small_run.recipe, index=recipe.Index(exact=1, recall=0.65))
            export.export(replace(small_run, recipe_file=replace(small_run.recipe_file, recipe=settings)), path)
    return shared / "ivf" / SMALL_LABEL


@pytest.fixture(scope="session")
def published(shared: Path, small_bundle: Path) -> Path:
    """A registry of three versions of the small bundle, named demo, whose titles begin with A, B and C."""
    with made_once(shared / "published" / "registry") as path:
        if path:
            for version, mark in {"1.0.0": "A", "1.1.0": "B", "1.2.0": "C"}.items():
                Registry(path).publish(variant(small_bundle, path.parent / version, version, mark))
    return shared / "published" / "registry"


@pytest.fixture(scope="session", autouse=True)
def converted_once(shared: Path) -> Iterator[None]:
    """PyTorch takes seconds to convert a network, and many tests export the same ones: each is converted once."""
    convert = onnx_graphs.from_torch

    def stored(module: torch.nn.Module, inputs: dict[str, torch.Tensor], output: str) -> onnx.ModelProto:
        weights = (f"{name}{value.numpy().tobytes()!r}" for name, value in module.state_dict().items())
        key = hashlib.sha256(f"{module}{[*inputs]}{output}{[*weights]}".encode()).hexdigest()
        with made_once(shared / "converted" / key) as path:
            if path:
                path.write_bytes(convert(module, inputs, output).SerializeToString())
        return onnx.load(shared / "converted" / key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_graphs, "from_torch", stored)
        yield


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
