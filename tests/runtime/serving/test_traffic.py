"""Which bundle answers which user while an experiment runs."""

import gc
import logging
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from musix_runtime import Engine, ModelManager, Registry, create_app
from musix_runtime.clock import format_time, now_ms
from musix_runtime.feedback.exposures import Exposure
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.registry import experiments
from musix_runtime.registry.assignment import assign
from musix_runtime.registry.experiments import Experiment
from musix_runtime.settings import Settings
from tests.bundle_variants import copy_registry, flip

USERS = [f"listener-{i:03d}" for i in range(40)]
VERSIONS = {"1.0.0": "A", "1.1.0": "B", "1.2.0": "C"}  # and the first letter of their titles


@pytest.fixture
def store(published: Path, tmp_path: Path) -> Registry:
    """A registry with 1.0.0, 1.1.0 and the live version 1.2.0."""
    return copy_registry(published, tmp_path / "store", ["1.2.0", "1.1.0", "1.0.0"])


@pytest.fixture
def manager(store: Registry) -> ModelManager:
    return ModelManager.open(store.path)


@pytest.fixture
def client(manager: ModelManager) -> TestClient:
    return TestClient(create_app(manager))


@pytest.fixture
def recording(manager: ModelManager, tmp_path: Path) -> Iterator[TestClient]:
    """A client of a server that records, in the database that `recorded` reads."""
    with TestClient(create_app(manager, Settings(feedback=f"sqlite:///{tmp_path / 'f.db'}"))) as client:
        yield client


def recorded(client: TestClient, tmp_path: Path) -> list[Exposure]:
    client.__exit__(None, None, None)  # which writes all exposures
    store = FeedbackStore.open(f"sqlite:///{tmp_path / 'f.db'}")
    try:
        return store.exposures()
    finally:
        store.close()


def start(store: Registry, treatment: str = "1.1.0", control: str | None = "1.0.0", share: float = 0.5) -> Experiment:
    return experiments.start(store, "demo", treatment=treatment, control=control, share=share, listeners=1000, now_ms=1)


def recommend(client: TestClient, user_id: str, **fields: Any) -> tuple[dict[str, Any], str]:
    """Return the answer, and the version that the header names."""
    response = client.post("/api/ml/recommend", json={"userId": user_id, "limit": 3, **fields})
    assert response.status_code == 200, response.text
    answer = response.json()["data"]
    version = response.headers["x-bundle"].partition("@")[0].removeprefix("demo-")
    assert {item["name"][0] for item in answer["recommendations"]} == {VERSIONS[version]}
    return answer, version


def test_users_are_answered_by_their_variants(store: Registry, manager: ModelManager, client: TestClient) -> None:
    experiment = start(store)
    answer, version = recommend(client, USERS[0])
    assert ("variant" in answer, version) == (False, "1.2.0")
    manager.refresh()
    seen = set()
    for user in USERS:
        expected = assign("demo/1", user, 0.5)
        for fields in ({}, {"excludeIds": ["x" * 900] * 20}):  # the latter is answered in a thread
            answer, version = recommend(client, user, **fields)
            assert (answer["variant"], version) == (expected, experiment.choices[expected])
        seen.add(expected)
    assert seen == {"control", "treatment"}
    experiments.stop(store, "demo", 2)
    manager.refresh()
    answer, version = recommend(client, USERS[0])
    assert ("variant" in answer, version) == (False, "1.2.0")


def test_other_routes_are_answered_by_the_live_bundle(
    store: Registry, manager: ModelManager, client: TestClient
) -> None:
    start(store)
    manager.refresh()
    track = {"trackId": "simulated0000000000001"}
    for path in ("/api/ml/classify", "/api/ml/similar"):
        assert client.post(path, json=track).headers["x-bundle"].startswith("demo-1.2.0@")
    assert client.get("/ready").json()["version"] == "1.2.0"


def test_a_server_starts_with_the_running_experiment(store: Registry) -> None:
    start(store)
    client = TestClient(create_app(ModelManager.open(store.path)))
    assert {recommend(client, user)[1] for user in USERS} == {"1.0.0", "1.1.0"}


def test_the_live_version_is_not_opened_twice(store: Registry, manager: ModelManager) -> None:
    start(store, control=None)
    manager.refresh()
    assert manager.traffic is not None
    assert manager.traffic.engines["control"] is manager.engine
    treatment = manager.traffic.engines["treatment"]
    manager.refresh()
    assert manager.traffic.engines["treatment"] is treatment
    with store.writing("demo") as folder:
        store.make_live(folder, "1.1.0")  # the treatment, as at the end of a rollout
    manager.refresh()
    assert manager.engine is manager.traffic.engines["treatment"] is treatment
    assert manager.traffic.engines["control"].bundle.manifest.version == "1.2.0"


def test_engines_close_when_the_experiment_stops(store: Registry, manager: ModelManager) -> None:
    start(store)
    manager.refresh()
    assert manager.traffic is not None
    engines = [weakref.ref(engine) for engine in manager.traffic.engines.values()]
    experiments.stop(store, "demo", 2)
    gc.disable()  # reference counting must suffice
    try:
        manager.refresh()
        assert manager.traffic is None
        assert [engine() for engine in engines] == [None, None]
    finally:
        gc.enable()


def test_a_broken_variant_is_answered_by_the_live_bundle(
    store: Registry, recording: TestClient, manager: ModelManager, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start(store, share=0.9)
    flip(store.path / "demo" / "1.1.0" / "mood" / "model.onnx")
    for _ in range(3):
        manager.refresh()
    assert len([record for record in caplog.records if "demo/1.1.0 is refused" in record.message]) == 1
    answers = [recommend(recording, user) for user in USERS]
    assert {(answer["variant"], version) for answer, version in answers} == {
        ("treatment", "1.2.0"),
        ("control", "1.0.0"),
    }
    rows = recorded(recording, tmp_path)
    assert {(row.experiment, row.variant, row.bundle) for row in rows} == {
        ("demo/1", "treatment", "demo-1.2.0"),
        ("demo/1", "control", "demo-1.0.0"),
    }


def test_a_variant_whose_files_change_answers_no_more(store: Registry, manager: ModelManager) -> None:
    start(store)
    manager.refresh()
    path = store.path / "demo" / "1.1.0" / "mood" / "model.onnx"
    path.chmod(0o644)
    flip(path)
    manager.refresh()
    assert manager.traffic is not None
    assert manager.traffic.engines["treatment"] is manager.engine
    flip(path)
    manager.refresh()
    assert manager.traffic.engines["treatment"].bundle.manifest.version == "1.1.0"


def test_a_broken_file_changes_nothing(
    store: Registry, manager: ModelManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    start(store)
    manager.refresh()
    file = store.path / "demo" / "experiments" / "1.json"
    content = file.read_bytes()
    file.write_bytes(content[:50])
    before = manager.traffic
    for _ in range(3):
        manager.refresh()
    assert manager.traffic == before
    assert manager.last_error is None
    file.write_bytes(content)
    manager.refresh()
    experiments.stop(store, "demo", 2)
    manager.refresh()
    messages = [record.message.partition(": expected")[0] for record in caplog.records]
    assert messages == [
        "experiment demo/1 is running",
        f"the experiment stays as it was: {file}",
        "no experiment is running",
    ]


def test_exposures_have_experiment_variant_and_duration(
    store: Registry, recording: TestClient, manager: ModelManager, tmp_path: Path
) -> None:
    recommend(recording, USERS[0])
    start(store)
    manager.refresh()
    answers = {recommend(recording, user)[0]["listId"]: user for user in USERS}
    first, *rows = recorded(recording, tmp_path)
    assert (first.experiment, first.variant, first.error) == (None, None, None)
    assert {row.list_id: row.user_id for row in rows} == answers
    for row in rows:
        assert (row.experiment, row.variant, row.error) == ("demo/1", assign("demo/1", row.user_id, 0.5), None)
        assert row.bundle == {"control": "demo-1.0.0", "treatment": "demo-1.1.0"}[str(row.variant)]
        assert row.duration_us is not None
        assert 0 < row.duration_us < 60_000_000


def test_failed_recommendations_of_an_experiment_are_recorded(
    store: Registry, recording: TestClient, manager: ModelManager, tmp_path: Path
) -> None:
    wrong = {"userId": USERS[0], "filters": {"genres": ["no such genre"]}}
    assert recording.post("/api/ml/recommend", json=wrong).status_code == 422
    start(store)
    manager.refresh()
    assert recording.post("/api/ml/recommend", json=wrong).status_code == 422
    (row,) = recorded(recording, tmp_path)
    assert (row.source, row.error, row.tracks) == ("error", "RequestError", "[]")
    assert (row.experiment, row.variant) == ("demo/1", assign("demo/1", USERS[0], 0.5))


def test_policies_answer_from_the_live_bundle(store: Registry, manager: ModelManager, client: TestClient) -> None:
    start(store, treatment="popular", control="blend")
    manager.refresh()
    answers = [recommend(client, user) for user in USERS]
    assert {version for _, version in answers} == {"1.2.0"}
    assert {(answer["variant"], answer["source"]) for answer, _ in answers} >= {("treatment", "popular")}
    engines = manager.traffic.engines  # type: ignore[union-attr]
    manager.refresh()
    assert manager.traffic.engines == engines  # type: ignore[union-attr]
    store.rollback("demo")
    manager.refresh()
    assert {recommend(client, user)[1] for user in USERS} == {"1.1.0"}


def test_an_external_control_is_answered_by_the_live_bundle(
    store: Registry, manager: ModelManager, client: TestClient
) -> None:
    start(store, control="external")
    manager.refresh()
    found = {(answer["variant"], version) for answer, version in (recommend(client, user) for user in USERS)}
    assert found == {("control", "1.2.0"), ("treatment", "1.1.0")}


def test_a_host_asks_for_the_variant(store: Registry, manager: ModelManager, client: TestClient) -> None:
    def ask(user: str) -> dict[str, Any]:
        return dict(client.post("/api/ml/assign", json={"userId": user}).json()["data"])

    assert ask(USERS[0]) == {"experiment": None, "variant": None}
    start(store)
    manager.refresh()
    for user in USERS:
        assert ask(user) == {"experiment": "demo/1", "variant": recommend(client, user)[0]["variant"]}
    assert client.post("/api/ml/assign", json={}).status_code == 422


def test_lists_of_the_host_have_the_variants_of_their_users(
    store: Registry, recording: TestClient, manager: ModelManager, tmp_path: Path
) -> None:
    start(store, control="external")
    manager.refresh()
    lists = [{"userId": user, "tracks": [{"id": "t", "score": 0.5}]} for user in USERS]
    answer = recording.post("/api/ml/exposures", json={"exposures": lists}).json()["data"]
    rows = recorded(recording, tmp_path)
    assert [row.list_id for row in rows] == [each["listId"] for each in answer["exposures"]]
    for row in rows:
        assert (row.experiment, row.variant, row.source) == ("demo/1", assign("demo/1", row.user_id, 0.5), "external")
        assert (row.bundle, row.digest) == ("", "")


def test_lists_of_the_host_from_before_an_experiment_have_no_variant(
    store: Registry, manager: ModelManager, recording: TestClient, tmp_path: Path
) -> None:
    """Whatever the client says, a list counts for the experiment only if it was shown after the start."""
    started = now_ms()
    experiments.start(store, "demo", treatment="popular", control="external", share=0.5, listeners=100, now_ms=started)
    manager.refresh()
    times = [format_time(started + 1000 * seconds) for seconds in (-86_400, -1, 1)]
    lists = [{"userId": USERS[0], "tracks": [{"id": "a"}], "shownAt": time} for time in times]
    assert recording.post("/api/ml/exposures", json={"exposures": lists}).status_code == 200
    variant = assign("demo/1", USERS[0], 0.5)
    assert [(row.experiment, row.variant) for row in recorded(recording, tmp_path)] == [
        (None, None),
        (None, None),
        ("demo/1", variant),
    ]


def test_the_admin_reads_experiments(store: Registry, manager: ModelManager) -> None:
    client = TestClient(create_app(manager, Settings(admin_token="secret")))
    admin = {"authorization": "Bearer secret"}
    assert client.get("/api/ml/experiments").status_code == 401
    assert client.get("/api/ml/experiments", headers=admin).json() == {"success": True, "data": []}
    start(store)
    (listed,) = client.get("/api/ml/experiments", headers=admin).json()["data"]
    assert listed == client.get("/api/ml/experiments/1", headers=admin).json()["data"]
    assert (listed["name"], listed["number"], listed["treatment"], listed["startedMs"]) == ("demo", 1, "1.1.0", 1)
    for wrong in ("2", "0", "x", "1/2", "1.json", "9" * 30):
        response = client.get(f"/api/ml/experiments/{wrong}", headers=admin)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    (store.path / "demo" / "experiments" / "1.json").write_bytes(b"{")
    assert client.get("/api/ml/experiments", headers=admin).status_code == 409
    parameter = {"name": "number", "in": "path", "required": True, "example": 1}
    document = client.get("/openapi.json").json()["paths"]["/api/ml/experiments/{number}"]["get"]
    assert document["parameters"][0].items() >= parameter.items()
    assert "api/ml" not in client.get("/").text  # a browser sends no token, and knows no number


def test_without_a_registry_there_is_no_experiment(small_bundle: Path) -> None:
    manager = ModelManager(Engine.open(small_bundle))
    manager.refresh()
    assert manager.traffic is None
