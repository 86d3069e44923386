import asyncio
import gc
import logging
import subprocess
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from musix_runtime import Engine, ModelManager, RecommendRequest, Registry, create_app
from musix_runtime.errors import BundleError, InputError
from musix_runtime.settings import RENAMED, Settings
from tests.bundle_variants import flip, plant, variant

TOKEN = "a token of the admin"
Make = Callable[[str], Path]


@pytest.fixture
def make(small_bundle: Path, tmp_path: Path) -> Make:
    """Return a function that makes a variant of the demo with another version."""
    return lambda version: variant(small_bundle, tmp_path / f"bundle-{version}", version)


@pytest.fixture
def store(make: Make, tmp_path: Path) -> Registry:
    """A registry with the live version 1.0.0."""
    store = Registry(tmp_path / "store")
    store.publish(make("1.0.0"))
    return store


def version(manager: ModelManager) -> str:
    return manager.engine.bundle.manifest.version


def mapped(path: Path) -> bool:
    """Return whether this process maps a file below `path`."""
    return f"{path}/" in Path("/proc/self/maps").read_text()


def test_live_bundle_replaces_the_old_one_which_closes_after_its_last_request(store: Registry, make: Make) -> None:
    manager = ModelManager.open(store.path)
    engine, old = manager.engine, store.live("demo")
    store.publish(make("1.1.0"))
    manager.refresh()
    assert version(manager) == "1.1.0"
    assert engine.recommend(RecommendRequest(user_id="listener-001")).recommendations  # of an unfinished request
    assert mapped(old)
    gone = weakref.ref(engine)
    gc.disable()  # reference counting must suffice: a cycle would keep maps and sessions until the next collection
    try:
        del engine
        assert gone() is None
        assert not mapped(old)
    finally:
        gc.enable()


def test_broken_bundle_is_logged_once_and_the_last_valid_one_answers(
    store: Registry, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    manager = ModelManager.open(store.path / "demo")
    plant(make("1.1.0"), store.path, "demo", broken="mood/model.onnx")
    for _ in range(3):
        manager.refresh()
    assert version(manager) == "1.0.0"
    assert manager.last_error
    assert manager.last_error.version == "1.1.0"
    assert "mood/model.onnx: expected SHA-256" in manager.last_error.message
    assert [item.message for item in caplog.records] == [f"demo/1.1.0 is refused: {manager.last_error.message}"]
    store.rollback("demo")
    manager.refresh()
    assert (version(manager), manager.last_error) == ("1.0.0", None)


def test_repaired_bundle_is_opened(store: Registry, make: Make) -> None:
    manager = ModelManager.open(store.path)
    plant(make("1.1.0"), store.path, "demo", broken="mood/model.onnx")
    manager.refresh()
    assert version(manager) == "1.0.0"
    flip(store.live("demo") / "mood" / "model.onnx")
    manager.refresh()
    assert (version(manager), manager.last_error) == ("1.1.0", None)


def test_unreadable_pointer_is_logged_and_read_again(store: Registry) -> None:
    manager = ModelManager.open(store.path)
    pointer = store.path / "demo" / "live"
    pointer.rename(pointer.with_name("away"))
    manager.refresh()
    assert manager.last_error
    assert manager.last_error.version is None
    pointer.with_name("away").rename(pointer)
    manager.refresh()
    assert manager.last_error is None


def test_server_starts_with_the_last_valid_bundle(
    store: Registry, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    plant(make("1.1.0"), store.path, "demo", broken="mood/model.onnx")
    plant(make("1.2.0"), store.path, "demo", broken="ranker/model.onnx")
    manager = ModelManager.open(str(store.path))
    assert version(manager) == "1.0.0"
    assert manager.last_error
    assert manager.last_error.version == "1.2.0"
    assert len(caplog.records) == 2
    flip(store.path / "demo" / "1.0.0" / "mood" / "model.onnx")
    with pytest.raises(BundleError, match=r"demo: expected a valid bundle among 1.2.0, 1.1.0, 1.0.0, found none"):
        ModelManager.open(store.path)


def test_a_version_whose_files_cannot_be_listed_is_refused(store: Registry, make: Make) -> None:
    plant(make("1.1.0"), store.path, "demo")
    folder = store.path / "demo" / "1.1.0" / "mood"
    deep = "for i in $(seq 1500); do mkdir x; cd -P x; done"  # for a path, and for a recursive function
    subprocess.run(["sh", "-c", deep], cwd=folder, check=True)
    try:
        manager = ModelManager.open(store.path)
        assert version(manager) == "1.0.0"
        manager.refresh()
        assert version(manager) == "1.0.0"
        assert manager.last_error
        assert manager.last_error.version == "1.1.0"
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)


def test_paths_that_the_system_refuses(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "loop", tmp_path / ("a" * 300)):
        with pytest.raises(BundleError, match="expected a bundle"):
            ModelManager.open(path)


def test_polling_until_the_context_ends(store: Registry, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    manager, before = ModelManager.open(store.path), threading.active_count()
    with manager.polling(0.01):
        store.publish(make("1.1.0"))
        deadline = threading.Event()
        for _ in range(3000):
            if version(manager) == "1.1.0" or deadline.wait(0.01):
                break
    assert version(manager) == "1.1.0"
    assert threading.active_count() == before
    assert [item.message for item in caplog.records] == [f"{manager.engine.bundle.label} answers"]


def test_refresh_without_a_registry(engine: Engine) -> None:
    manager = ModelManager(engine)
    with manager.polling(0.01):
        manager.refresh()
    assert manager.engine is engine


@pytest.fixture
def client(store: Registry) -> TestClient:
    return TestClient(create_app(ModelManager.open(store.path), Settings(admin_token=TOKEN)))


def act(client: TestClient, action: str, authorization: str | None = f"Bearer {TOKEN}") -> tuple[int, dict]:
    headers = {"authorization": authorization.encode("latin-1")} if authorization is not None else {}
    response = client.post(f"/api/ml/{action}", headers=headers)
    return response.status_code, response.json()


def test_admin_reloads_and_rolls_back(client: TestClient, store: Registry, make: Make) -> None:
    store.publish(make("1.1.0"))
    assert client.get("/ready").json()["version"] == "1.0.0"
    status, body = act(client, "reload")
    assert (status, body["data"]["version"]) == (200, "1.1.0")
    assert client.get("/ready").headers["x-bundle"] == f"demo-1.1.0@{body['data']['digest']}"
    assert act(client, "rollback")[1]["data"]["version"] == "1.0.0"
    assert store.live("demo").name == "1.0.0"
    status, body = act(client, "rollback")
    assert (status, body["error"]["code"]) == (409, "conflict")
    assert "expected a version that was live before 1.0.0, found none" in body["error"]["message"]


def test_refused_reload_is_a_conflict(client: TestClient, store: Registry, make: Make) -> None:
    plant(make("1.1.0"), store.path, "demo", broken="mood/model.onnx")
    status, body = act(client, "reload")
    assert (status, body["error"]["code"]) == (409, "conflict")
    ready = client.get("/ready")
    assert (ready.status_code, ready.json()["version"]) == (200, "1.0.0")
    assert ready.json()["failed"] == {"version": "1.1.0", "error": "HashError"}
    assert str(store.path) in body["error"]["message"]  # which the admin may see
    assert str(store.path) not in ready.text


@pytest.mark.parametrize("action", ["reload", "rollback"])
def test_admin_routes_need_the_token(
    client: TestClient, store: Registry, action: str, caplog: pytest.LogCaptureFixture
) -> None:
    for none in (None, "", "Bearer", "Bearer ", f"Basic {TOKEN}"):
        status, body = act(client, action, none)
        assert (status, body["error"]["code"]) == (401, "unauthorized")
    for wrong in ("Bearer x", f"Bearer {TOKEN}x", f"bearer {TOKEN[:-1]}", "Bearer \xff"):
        status, body = act(client, action, wrong)
        assert (status, body["error"]["code"]) == (403, "forbidden")
    warnings = [item.message for item in caplog.records if item.levelname == "WARNING"]
    assert warnings == [f"/api/ml/{action}: a wrong token of the admin, from testclient"]
    assert client.post(f"/api/ml/{action}").headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("action", ["reload", "rollback"])
def test_no_admin_routes_without_a_token_or_registry(store: Registry, engine: Engine, action: str) -> None:
    assert act(TestClient(create_app(ModelManager.open(store.path))), action)[0] == 404
    assert act(TestClient(create_app(engine, Settings(admin_token=TOKEN))), action)[0] == 404


def test_application_polls_during_its_lifespan(store: Registry, make: Make) -> None:
    with TestClient(create_app(ModelManager.open(store.path), Settings(poll_interval_s=0.01))) as client:
        store.publish(make("1.1.0"))
        pause = threading.Event()
        for _ in range(3000):
            if client.get("/ready").json()["version"] == "1.1.0" or pause.wait(0.01):
                break
        assert client.get("/ready").json()["version"] == "1.1.0"


def test_scope_of_an_answered_request_has_no_engine(store: Registry, make: Make) -> None:
    """A server keeps the last scope of an idle connection until the client disconnects."""
    manager = ModelManager.open(store.path)
    scope = {"type": "http", "method": "GET", "path": "/ready", "headers": [], "query_string": b""}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(create_app(manager)(scope, receive, send))
    assert sent[0]["status"] == 200
    gone = weakref.ref(manager.engine)
    store.publish(make("1.1.0"))
    manager.refresh()
    assert gone() is None


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSIX_POLL_INTERVAL_S", "0.5")
    monkeypatch.setenv("MUSIX_ADMIN_TOKEN", TOKEN)
    settings = Settings.from_environment()
    assert (settings.poll_interval_s, settings.admin_token) == (0.5, TOKEN)
    assert TOKEN not in repr(settings)
    for wrong in ("0", "-1", "nan", "inf", "soon", ""):
        monkeypatch.setenv("MUSIX_POLL_INTERVAL_S", wrong)
        with pytest.raises(InputError, match="MUSIX_POLL_INTERVAL_S: expected a number of seconds above 0, found"):
            Settings.from_environment()
    monkeypatch.delenv("MUSIX_POLL_INTERVAL_S")
    monkeypatch.setenv("MUSIX_FEEDBACK_KEEP_DAYS", "99999999")
    with pytest.raises(InputError, match=r"expected a number of days from 0 to 36,500, found '99999999'"):
        Settings.from_environment()


@pytest.mark.parametrize("wrong", ["example.com", "https://example.com/path", "https://a.example b.example"])
def test_origin_that_no_browser_sends_is_refused(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv("MUSIX_CORS_ORIGINS", "https://example.com, http://localhost:3000")
    assert Settings.from_environment().cors_origins == ("https://example.com", "http://localhost:3000")
    monkeypatch.setenv("MUSIX_CORS_ORIGINS", f"https://example.com,{wrong}")
    with pytest.raises(InputError, match=r"MUSIX_CORS_ORIGINS: expected \* or origins like https://example.com, found"):
        Settings.from_environment()


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_the_old_name_of_a_setting_is_refused_with_the_new_one(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    monkeypatch.setenv(old, "1")
    with pytest.raises(InputError, match=f"{old}: expected {new}, found its old name"):
        Settings.from_environment()
