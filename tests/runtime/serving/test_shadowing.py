"""A shadow answers beside the live bundle, and is never shown."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from starlette.testclient import TestClient

from musix_runtime import Engine, ModelManager, RecommendRequest, Registry, create_app
from musix_runtime.errors import StoreError
from musix_runtime.registry import shadows
from musix_runtime.serving.shadowing import Comparison, compare
from tests.bundle_variants import copy_registry, flip

USERS = [f"listener-{i:03d}" for i in range(8)]


@pytest.fixture
def store(published: Path, tmp_path: Path) -> Registry:
    """A registry with the live version 1.0.0 and the candidate 1.1.0."""
    return copy_registry(published, tmp_path / "store", ["1.0.0"], candidates=("1.1.0",))


@pytest.fixture
def manager(store: Registry) -> ModelManager:
    return ModelManager.open(store.path)


@pytest.fixture
def client(manager: ModelManager) -> Iterator[TestClient]:
    with TestClient(create_app(manager)) as client:
        yield client


def figures(client: TestClient) -> dict[str, float]:
    """Return the metrics of shadows."""
    lines = (line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    return {name: float(value) for name, value in lines if name.startswith("musix_shadow") and "created" not in name}


def until(client: TestClient, condition: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    end = time.monotonic() + 20
    while not condition(found := figures(client)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def ask(client: TestClient) -> None:
    for user in USERS:
        answer = client.post("/api/ml/recommend", json={"userId": user}).json()["data"]
        assert {track["name"][0] for track in answer["recommendations"]} == {"A"}
        assert "variant" not in answer


def test_all_series_exist_from_the_start(client: TestClient) -> None:
    assert set(figures(client).values()) == {0}
    assert len(figures(client)) == 9


def test_equal_models_overlap_wholly(store: Registry, manager: ModelManager, client: TestClient) -> None:
    shadows.start(store, "demo", "1.1.0", 1.0, 1)
    manager.refresh()
    ask(client)
    found = until(client, lambda found: found["musix_shadow_overlap_count"] == len(USERS))
    assert found["musix_shadow_overlap_sum"] == len(USERS)
    assert found["musix_shadow_score_drift_count"] == len(USERS)
    assert found["musix_shadow_score_drift_sum"] == pytest.approx(0, abs=1e-6)
    assert found['musix_shadow_seconds_count{answer="shadow"}'] == len(USERS)
    assert 0 < found['musix_shadow_seconds_sum{answer="shadow"}'] < 60
    assert found["musix_shadow_errors_total"] == 0


def test_a_shadow_ends_when_it_is_stopped(store: Registry, manager: ModelManager, client: TestClient) -> None:
    shadows.start(store, "demo", "1.1.0", 1.0, 1)
    manager.refresh()
    assert manager.shadow is not None
    assert shadows.stop(store, "demo", 2).stopped_ms == 2
    manager.refresh()
    assert manager.shadow is None
    ask(client)
    assert set(figures(client).values()) == {0}


def test_answers_that_fail_are_counted(
    store: Registry, manager: ModelManager, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadows.start(store, "demo", "1.1.0", 1.0, 1)
    manager.refresh()
    assert manager.shadow is not None
    broken = manager.shadow.engine.with_models(ranker=None)
    manager.shadow = type(manager.shadow)(manager.shadow.shadow, broken)
    ask(client)
    found = until(client, lambda found: found["musix_shadow_errors_total"] == len(USERS))
    assert found["musix_shadow_errors_total"] == len(USERS)
    assert found["musix_shadow_overlap_count"] == 0


def test_a_share_of_the_answers_is_repeated(store: Registry, manager: ModelManager, client: TestClient) -> None:
    shadows.start(store, "demo", "1.1.0", 0.5, 1)
    manager.refresh()
    for _ in range(8):
        ask(client)
    time.sleep(1)
    assert 10 < figures(client)["musix_shadow_overlap_count"] < 54  # of 64


def test_a_broken_version_is_no_shadow(store: Registry, manager: ModelManager) -> None:
    shadows.start(store, "demo", "1.1.0", 1.0, 1)
    flip(store.path / "demo" / "1.1.0" / "mood" / "model.onnx")
    manager.refresh()
    assert manager.shadow is None
    assert manager.engine.bundle.manifest.version == "1.0.0"


def test_start_with_wrong_values(store: Registry) -> None:
    with pytest.raises(StoreError, match=r"expected a published version, found 9\.0\.0"):
        shadows.start(store, "demo", "9.0.0", 0.5, 1)
    with pytest.raises(StoreError, match="demo: Expected `float` <= 1"):
        shadows.start(store, "demo", "1.1.0", 1.5, 1)
    with pytest.raises(StoreError, match=r"expected another version than the live one, found 1\.0\.0"):
        shadows.start(store, "demo", "1.0.0", 0.5, 1)
    with pytest.raises(StoreError, match="expected a running shadow, found none"):
        shadows.stop(store, "demo", 1)


def test_compare_two_lists(engine: Engine) -> None:
    shown = engine.recommend(RecommendRequest(user_id="listener-001"))
    tracks = shown.recommendations
    higher = [replace(each, score=each.score + 0.1) for each in tracks[:2]]
    other = replace(shown, recommendations=[*tracks[5:], *higher])
    found = compare(shown, other, 0.1, 0.2)
    assert (found.overlap, found.shown_s, found.candidate_s) == (0.7, 0.1, 0.2)
    assert found.score_drift == pytest.approx(0.2 / 7)
    empty = replace(shown, recommendations=[])
    assert compare(empty, empty, 0.1, 0.2) == Comparison(1, None, 0.1, 0.2)
    assert compare(empty, shown, 0.1, 0.2).overlap == 0
    nothing = compare(shown, replace(shown, recommendations=[]), 0.1, 0.2)
    assert (nothing.overlap, nothing.score_drift) == (0, None)


def test_gc_keeps_the_version_of_a_shadow(store: Registry) -> None:
    shadows.start(store, "demo", "1.1.0", 0.5, 1)
    assert store.gc("demo", keep=0) == []
    shadows.stop(store, "demo", 2)
    assert [path.name for path in store.gc("demo", keep=0)] == ["1.1.0"]


def test_a_shadow_that_becomes_live_is_logged_once(
    store: Registry, manager: ModelManager, published: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shadows.start(store, "demo", "1.1.0", 1.0, 1)
    for _ in range(3):
        manager.refresh()
    store.publish(published / "demo" / "1.1.0")
    for _ in range(3):
        manager.refresh()
    assert manager.shadow is None
    store.rollback("demo")
    manager.refresh()
    assert manager.shadow is not None
    assert [record.message for record in caplog.records if "shadow" in record.message] == ["shadow demo/1 is running"]
