"""Files of a bundle that are written over while it is served: `cp -r`, `rsync --inplace` and `scp` do that."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from musix_runtime import Engine, ModelManager, RecommendRequest, Registry, create_app
from musix_runtime.errors import HashError, NotReadyError
from musix_runtime.models import catalog
from musix_runtime.models.parts import MODELS, open_bundle
from musix_runtime.settings import Settings
from tests.variants import flip, variant

ASK = RecommendRequest(user_id="listener-001", limit=3)
MODEL = "mood/model.onnx"


def write_over(path: Path, content: bytes) -> None:
    """Write into the file that is there, as `cp` does."""
    with path.open("r+b") as file:
        file.truncate(len(content))
        file.write(content)


def copy_over(source: Path, target: Path) -> None:
    """`cp -r source/. target`: into the files that are there."""
    for file in (each for each in source.rglob("*") if each.is_file()):
        write_over(target / file.relative_to(source), file.read_bytes())


@pytest.fixture
def other(demo_bundle: Path, tmp_path: Path) -> Path:
    """Another good bundle: the same, whose tracks' names begin with Z."""
    return variant(demo_bundle, tmp_path / "other", "1.0.0", "Z")


@pytest.fixture(params=["folder", "packed", "store"])
def served(request: pytest.FixtureRequest, copy: Path, tmp_path: Path) -> tuple[Path, Path]:
    """What is served, and the bundle in it that is written over."""
    if request.param == "folder":
        return copy, copy
    if request.param == "packed":
        open_bundle(copy).pack(tmp_path / "demo.musix")
        return tmp_path / "demo.musix", tmp_path / "demo.musix"
    store = Registry(tmp_path / "store")
    return store.path, store.publish(copy)


def spoil(bundle: Path) -> Path:
    """Turn a bit of a model in place; the file of it."""
    file = bundle / MODEL if bundle.is_dir() else bundle
    file.chmod(0o644)
    flip(file)
    return file


def test_nothing_is_answered_from_changed_files_until_they_are_good(
    served: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    path, bundle = served
    live = ModelManager.open(path)
    file = spoil(bundle)
    live.refresh()
    assert live.unready
    with pytest.raises(NotReadyError, match="expected nobody to write to them, found them changed"):
        live.engine.recommend(ASK)
    live.refresh()
    assert len(caplog.records) == 2  # changed, and refused; each is told once
    assert live.last_error
    assert "expected SHA-256" in live.last_error.message
    flip(file)
    live.refresh()
    assert (live.unready, live.last_error) == (None, None)
    assert live.engine.recommend(ASK).recommendations


def test_another_good_bundle_in_the_same_files_is_taken(copy: Path, other: Path) -> None:
    live = ModelManager.open(copy)
    digest = live.engine.bundle.digest
    copy_over(other, copy)
    live.refresh()
    assert live.engine.bundle.digest == open_bundle(other).digest != digest
    assert all(each.name.startswith("Z") for each in live.engine.recommend(ASK).recommendations)


def test_a_store_goes_back_to_the_last_good_version(demo_bundle: Path, tmp_path: Path) -> None:
    store = Registry(tmp_path / "store")
    for version in ("1.0.0", "1.1.0"):
        store.publish(variant(demo_bundle, tmp_path / version, version))
    live = ModelManager.open(store.path)
    spoil(store.live("demo"))
    live.refresh()
    assert live.engine.bundle.manifest.version == "1.0.0"
    assert live.last_error
    assert live.last_error.version == "1.1.0"


@pytest.mark.parametrize("name", ["manifest.json", "signature.json", "catalog/popular.npy"])
def test_every_file_is_watched(copy: Path, name: str) -> None:
    live = ModelManager.open(copy)
    file = copy / name
    if file.exists():
        os.utime(file, ns=(0, 0))
    else:
        file.write_bytes(b"")
    before = live.engine
    live.refresh()
    assert live.engine is not before  # opened anew, and found to be good
    (copy / ".DS_Store").touch()  # of no file that is mapped
    before = live.engine
    live.refresh()
    assert live.engine is before


def test_a_bundle_that_is_replaced_by_a_rename_is_taken(copy: Path, other: Path) -> None:
    live = ModelManager.open(copy)
    copy.rename(copy.with_name("away"))
    live.refresh()
    assert live.unready
    other.rename(copy)
    live.refresh()
    assert live.engine.bundle.digest == open_bundle(copy).digest


def test_an_engine_that_had_to_be_signed_is_never_reopened_unsigned(copy: Path, tmp_path: Path) -> None:
    from musix_runtime.bundle import signature

    private, public = signature.generate(tmp_path / "ours")
    (copy / "signature.json").write_bytes(signature.sign(open_bundle(copy).digest, private))
    live = ModelManager(Engine.open(copy, public))
    (copy / "signature.json").unlink()
    live.refresh()
    assert live.unready
    assert live.last_error
    assert "expected a signature by" in live.last_error.message


@pytest.fixture
def client(served: tuple[Path, Path]) -> Iterator[TestClient]:
    with TestClient(create_app(ModelManager.open(served[0]), Settings(poll_interval_s=0.05))) as client:
        yield client


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if condition():
            return
        pause.wait(0.02)
    pytest.fail("it did not come true")


def test_a_server_is_not_ready_meanwhile(client: TestClient, served: tuple[Path, Path]) -> None:
    question = {"userId": "listener-001", "limit": 3}
    good = client.post("/api/ml/recommend", json=question).json()["data"]["recommendations"]
    file = spoil(served[1])
    until(lambda: client.get("/ready").status_code == 503)
    for response in (
        client.get("/ready"),
        client.post("/api/ml/recommend", json=question),
        client.post("/api/ml/classify/batch", json=[]),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
        assert int(response.headers["retry-after"]) > 0
    assert client.get("/health").status_code == 200
    assert client.get("/metrics").status_code == 200
    flip(file)
    until(lambda: client.get("/ready").status_code == 200)
    assert client.post("/api/ml/recommend", json=question).json()["data"]["recommendations"] == good


def test_files_that_change_while_they_are_read_are_refused(copy: Path) -> None:
    parts = *MODELS, replace(catalog.PART, validate=lambda checks: os.utime(copy / MODEL, ns=(0, 0)))
    with pytest.raises(HashError, match="found them changed while they were verified"):
        open_bundle(copy, parts=parts)
