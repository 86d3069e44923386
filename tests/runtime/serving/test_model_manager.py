import asyncio
import gc
import logging
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
from tests.variants import flip, plant, variant

TOKEN = "a token of the admin"
Make = Callable[[str], Path]


@pytest.fixture
def make(demo_bundle: Path, tmp_path: Path) -> Make:
    """Make a bundle like the demo, of another version."""
    return lambda version: variant(demo_bundle, tmp_path / f"bundle-{version}", version)


@pytest.fixture
def store(make: Make, tmp_path: Path) -> Registry:
    """A store whose live bundle is 1.0.0."""
    store = Registry(tmp_path / "store")
    store.publish(make("1.0.0"))
    return store


def version(live: ModelManager) -> str:
    return live.engine.bundle.manifest.version


def mapped(path: Path) -> bool:
    """Whether this process still maps a file below `path`."""
    return f"{path}/" in Path("/proc/self/maps").read_text()


def test_the_live_bundle_is_taken_and_the_old_one_closed_after_its_last_request(store: Registry, make: Make) -> None:
    live = ModelManager.open(store.path)
    engine, old = live.engine, store.live("demo")
    store.publish(make("1.1.0"))
    live.refresh()
    assert version(live) == "1.1.0"
    assert engine.recommend(RecommendRequest(user_id="listener-001")).recommendations  # of a request that is not over
    assert mapped(old)
    gone = weakref.ref(engine)
    gc.disable()  # counting references must do: a cycle would keep maps and sessions for as long as it likes
    try:
        del engine
        assert gone() is None
        assert not mapped(old)
    finally:
        gc.enable()


def test_a_broken_bundle_is_told_once_and_the_last_good_one_answers(
    store: Registry, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    live = ModelManager.open(store.path / "demo")
    plant(make("1.1.0"), store.path, "demo", broken="mood/model.onnx")
    for _ in range(3):
        live.refresh()
    assert version(live) == "1.0.0"
    assert live.last_error
    assert live.last_error.version == "1.1.0"
    assert "mood/model.onnx: expected SHA-256" in live.last_error.message
    assert [each.message for each in caplog.records] == [f"demo 1.1.0 is refused: {live.last_error.message}"]
    store.rollback("demo")
    live.refresh()
    assert (version(live), live.last_error) == ("1.0.0", None)


def test_a_bundle_that_was_repaired_is_taken(store: Registry, make: Make) -> None:
    live = ModelManager.open(store.path)
    plant(make("1.1.0"), store.path, "demo", broken="mood/model.onnx")
    live.refresh()
    assert version(live) == "1.0.0"
    flip(store.live("demo") / "mood" / "model.onnx")
    live.refresh()
    assert (version(live), live.last_error) == ("1.1.0", None)


def test_a_pointer_that_cannot_be_read_is_told_and_read_again(store: Registry) -> None:
    live = ModelManager.open(store.path)
    pointer = store.path / "demo" / "live"
    pointer.rename(pointer.with_name("away"))
    live.refresh()
    assert live.last_error
    assert live.last_error.version is None
    pointer.with_name("away").rename(pointer)
    live.refresh()
    assert live.last_error is None


def test_a_server_starts_with_the_last_good_bundle(
    store: Registry, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    plant(make("1.1.0"), store.path, "demo", broken="mood/model.onnx")
    plant(make("1.2.0"), store.path, "demo", broken="ranker/model.onnx")
    live = ModelManager.open(store.path)
    assert version(live) == "1.0.0"
    assert live.last_error
    assert live.last_error.version == "1.2.0"
    assert len(caplog.records) == 2
    flip(store.path / "demo" / "1.0.0" / "mood" / "model.onnx")
    with pytest.raises(BundleError, match=r"demo: expected a good bundle among 1.2.0, 1.1.0, 1.0.0, found none"):
        ModelManager.open(store.path)


def test_it_follows_until_told_to_stop(store: Registry, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    live, before = ModelManager.open(store.path), threading.active_count()
    with live.polling(0.01):
        store.publish(make("1.1.0"))
        deadline = threading.Event()
        for _ in range(3000):
            if version(live) == "1.1.0" or deadline.wait(0.01):
                break
    assert version(live) == "1.1.0"
    assert threading.active_count() == before
    assert [each.message for each in caplog.records] == ["demo 1.1.0 is live"]


def test_a_bundle_alone_has_nothing_to_follow(engine: Engine) -> None:
    live = ModelManager(engine)
    with live.polling(0.01):
        live.refresh()
    assert live.engine is engine


@pytest.fixture
def client(store: Registry) -> TestClient:
    return TestClient(create_app(ModelManager.open(store.path), Settings(admin_token=TOKEN)))


def act(client: TestClient, action: str, authorization: str | None = f"Bearer {TOKEN}") -> tuple[int, dict]:
    headers = {"authorization": authorization.encode("latin-1")} if authorization is not None else {}
    response = client.post(f"/api/ml/{action}", headers=headers)
    return response.status_code, response.json()


def test_the_admin_reloads_and_rolls_back(client: TestClient, store: Registry, make: Make) -> None:
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


def test_a_reload_that_is_refused_is_a_conflict(client: TestClient, store: Registry, make: Make) -> None:
    plant(make("1.1.0"), store.path, "demo", broken="mood/model.onnx")
    status, body = act(client, "reload")
    assert (status, body["error"]["code"]) == (409, "conflict")
    ready = client.get("/ready")
    assert (ready.status_code, ready.json()["version"]) == (200, "1.0.0")
    assert ready.json()["failed"] == {"version": "1.1.0", "error": "HashError"}
    assert str(store.path) in body["error"]["message"]  # which the admin may see
    assert str(store.path) not in ready.text


@pytest.mark.parametrize("action", ["reload", "rollback"])
def test_only_the_admin_may(client: TestClient, store: Registry, action: str, caplog: pytest.LogCaptureFixture) -> None:
    for none in (None, "", "Bearer", "Bearer ", f"Basic {TOKEN}"):
        status, body = act(client, action, none)
        assert (status, body["error"]["code"]) == (401, "unauthorized")
    for wrong in ("Bearer x", f"Bearer {TOKEN}x", f"bearer {TOKEN[:-1]}", "Bearer \xff"):
        status, body = act(client, action, wrong)
        assert (status, body["error"]["code"]) == (403, "forbidden")
    warnings = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert warnings == [f"/api/ml/{action}: a wrong token of the admin, from testclient"]
    assert client.post(f"/api/ml/{action}").headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("action", ["reload", "rollback"])
def test_without_a_token_or_a_store_there_is_no_admin(store: Registry, engine: Engine, action: str) -> None:
    assert act(TestClient(create_app(ModelManager.open(store.path))), action)[0] == 404
    assert act(TestClient(create_app(engine, Settings(admin_token=TOKEN))), action)[0] == 404


def test_an_application_follows_for_its_lifespan(store: Registry, make: Make) -> None:
    with TestClient(create_app(ModelManager.open(store.path), Settings(poll_interval_s=0.01))) as client:
        store.publish(make("1.1.0"))
        pause = threading.Event()
        for _ in range(3000):
            if client.get("/ready").json()["version"] == "1.1.0" or pause.wait(0.01):
                break
        assert client.get("/ready").json()["version"] == "1.1.0"


def test_the_scope_of_a_request_that_is_over_holds_no_engine(store: Registry, make: Make) -> None:
    """A server keeps the last scope of an idle connection for as long as the client stays."""
    live = ModelManager.open(store.path)
    scope = {"type": "http", "method": "GET", "path": "/ready", "headers": [], "query_string": b""}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(create_app(live)(scope, receive, send))
    assert sent[0]["status"] == 200
    gone = weakref.ref(live.engine)
    store.publish(make("1.1.0"))
    live.refresh()
    assert gone() is None


def test_settings_of_a_store_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSIX_POLL_INTERVAL_S", "0.5")
    monkeypatch.setenv("MUSIX_ADMIN_TOKEN", TOKEN)
    settings = Settings.from_environment()
    assert (settings.poll_interval_s, settings.admin_token) == (0.5, TOKEN)
    assert TOKEN not in repr(settings)
    for wrong in ("0", "-1", "nan", "inf", "soon", ""):
        monkeypatch.setenv("MUSIX_POLL_INTERVAL_S", wrong)
        with pytest.raises(InputError, match="MUSIX_POLL_INTERVAL_S: expected a number of seconds above 0, found"):
            Settings.from_environment()


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_the_old_name_of_a_setting_is_refused_with_the_new_one(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    monkeypatch.setenv(old, "1")
    with pytest.raises(InputError, match=f"{old}: expected {new}, found the name that it had before"):
        Settings.from_environment()
