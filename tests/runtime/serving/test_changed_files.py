"""Files of a bundle that are overwritten while it is served, as by `cp -r`, `rsync --inplace` and `scp`."""

import os
import shutil
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
from tests.bundle_variants import flip, variant

ASK = RecommendRequest(user_id="listener-001", limit=3)
MODEL = "mood/model.onnx"


def overwrite(path: Path, content: bytes) -> None:
    """Overwrite an existing file in place, like `cp`."""
    with path.open("r+b") as file:
        file.truncate(len(content))
        file.write(content)


def copy_over(source: Path, target: Path) -> None:
    """Overwrite existing files in place, like `cp -r source/. target`."""
    for file in (item for item in source.rglob("*") if item.is_file()):
        overwrite(target / file.relative_to(source), file.read_bytes())


@pytest.fixture
def other(demo_bundle: Path, tmp_path: Path) -> Path:
    """A valid variant of the demo, whose titles begin with Z."""
    return variant(demo_bundle, tmp_path / "other", "1.0.0", "Z")


@pytest.fixture(params=["folder", "packed", "store"])
def served(request: pytest.FixtureRequest, copy: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The served path, and the bundle in it that is overwritten."""
    if request.param == "folder":
        return copy, copy
    if request.param == "packed":
        open_bundle(copy).pack(tmp_path / "demo.musix")
        return tmp_path / "demo.musix", tmp_path / "demo.musix"
    store = Registry(tmp_path / "store")
    return store.path, store.publish(copy)


def corrupt(bundle: Path) -> Path:
    """Change a bit of a model in place. Return the file."""
    file = bundle / MODEL if bundle.is_dir() else bundle
    file.chmod(0o644)
    flip(file)
    return file


def test_no_request_is_answered_from_changed_files_until_they_are_valid(
    served: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    path, bundle = served
    manager = ModelManager.open(path)
    file = corrupt(bundle)
    manager.refresh()
    assert manager.unready
    with pytest.raises(NotReadyError, match="expected no changes, found some"):
        manager.engine.recommend(ASK)
    manager.refresh()
    assert len(caplog.records) == 2  # changed and refused, each logged once
    assert manager.last_error
    assert "expected SHA-256" in manager.last_error.message
    flip(file)
    manager.refresh()
    assert (manager.unready, manager.last_error) == (None, None)
    assert manager.engine.recommend(ASK).recommendations


def test_another_valid_bundle_in_the_same_files_is_opened(copy: Path, other: Path) -> None:
    manager = ModelManager.open(copy)
    digest = manager.engine.bundle.digest
    copy_over(other, copy)
    manager.refresh()
    assert manager.engine.bundle.digest == open_bundle(other).digest != digest
    assert all(item.name.startswith("Z") for item in manager.engine.recommend(ASK).recommendations)


def test_registry_falls_back_to_the_last_valid_version(demo_bundle: Path, tmp_path: Path) -> None:
    store = Registry(tmp_path / "store")
    for version in ("1.0.0", "1.1.0"):
        store.publish(variant(demo_bundle, tmp_path / version, version))
    manager = ModelManager.open(store.path)
    corrupt(store.live("demo"))
    manager.refresh()
    assert manager.engine.bundle.manifest.version == "1.0.0"
    assert manager.last_error
    assert manager.last_error.version == "1.1.0"


def test_overwritten_file_with_its_old_time_is_detected(copy: Path) -> None:
    manager = ModelManager.open(copy)
    file = copy / MODEL
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    flip(file)
    os.utime(file, ns=times)
    manager.refresh()
    assert manager.unready


@pytest.mark.parametrize("name", ["manifest.json", "signature.json", "catalog/popular.npy"])
def test_changes_of_all_files_are_detected(copy: Path, name: str) -> None:
    manager = ModelManager.open(copy)
    file = copy / name
    if file.exists():
        os.utime(file, ns=(0, 0))
    else:
        file.write_bytes(b"")
    before = manager.engine
    manager.refresh()
    assert manager.engine is not before  # opened again, and valid
    (copy / ".DS_Store").touch()  # not a mapped file
    before = manager.engine
    manager.refresh()
    assert manager.engine is before


def test_bundle_replaced_by_a_rename_is_opened(copy: Path, other: Path) -> None:
    manager = ModelManager.open(copy)
    before = manager.engine
    copy.rename(copy.with_name("away"))
    manager.refresh()
    assert manager.engine is before  # whose files are mapped as they were
    assert manager.last_error
    shutil.copytree(other, copy)
    file = corrupt(copy)
    manager.refresh()
    assert manager.engine is before
    assert "expected SHA-256" in manager.last_error.message
    flip(file)
    manager.refresh()
    assert manager.engine.bundle.digest == open_bundle(other).digest != before.bundle.digest
    assert manager.last_error is None


def test_signed_bundle_is_not_reopened_unsigned(copy: Path, tmp_path: Path) -> None:
    from musix_runtime.bundle import signature

    private, public = signature.generate(tmp_path / "ours")
    (copy / "signature.json").write_bytes(signature.sign(open_bundle(copy).digest, private))
    manager = ModelManager(Engine.open(copy, public))
    signed = manager.engine
    (copy / "signature.json").unlink()
    manager.refresh()
    assert manager.engine is signed
    assert manager.last_error
    assert "expected a signature by" in manager.last_error.message


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
    pytest.fail("the condition did not become true")


def test_server_is_not_ready_while_files_are_invalid(client: TestClient, served: tuple[Path, Path]) -> None:
    question = {"userId": "listener-001", "limit": 3}
    good = client.post("/api/ml/recommend", json=question).json()["data"]["recommendations"]
    file = corrupt(served[1])
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
