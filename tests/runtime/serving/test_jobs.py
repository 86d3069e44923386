"""The routes about jobs, on a registry with a feedback database."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from starlette.testclient import TestClient

from musix_runtime import ModelManager, Registry, create_app
from musix_runtime.clock import now_ms
from musix_runtime.feedback.jobs import JobQueue, Lease, Output
from musix_runtime.settings import Settings
from tests.bundle_variants import variant

ADMIN = {"authorization": "Bearer secret"}
PATHS = ("/api/ml/train", "/api/ml/jobs", "/api/ml/jobs/{jobId}")


@pytest.fixture(scope="module")
def manager(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelManager:
    folder = tmp_path_factory.mktemp("jobs")
    registry = Registry(folder / "registry")
    registry.publish(variant(small_bundle, folder / "1.0.0", "1.0.0"))
    return ModelManager.open(registry.path)


@pytest.fixture
def client(manager: ModelManager, tmp_path: Path) -> Iterator[TestClient]:
    settings = Settings(feedback=f"sqlite:///{tmp_path / 'f.db'}", admin_token="secret")
    with TestClient(create_app(manager, settings), headers=ADMIN) as client:
        yield client


def queue(client: TestClient) -> JobQueue:
    """The queue of the server's database, as its workers see it."""
    jobs: JobQueue = client.app.state.feedback.store.jobs  # type: ignore[attr-defined]
    return jobs


def train(client: TestClient) -> dict[str, Any]:
    response = client.post("/api/ml/train", json={"model": "all"})
    assert response.status_code == 202, response.text
    return dict(response.json()["data"])


def test_a_training_is_a_job(client: TestClient) -> None:
    started = train(client)
    assert started == {"status": "training_started", "jobId": started["jobId"], "estimatedTime": None}
    assert train(client) == started
    (listed,) = client.get("/api/ml/jobs").json()["data"]
    assert datetime.now(UTC) - datetime.fromisoformat(listed.pop("createdAt")) < timedelta(seconds=30)
    assert listed == {
        "id": started["jobId"],
        "name": "demo",
        "model": "all",
        "state": "waiting",
        "startedAt": None,
        "finishedAt": None,
        "attempts": 0,
        "cancelRequested": False,
        "progress": "",
        "reason": None,
    }


def test_a_job_is_followed(client: TestClient) -> None:
    job_id, lease = train(client)["jobId"], Lease("token", now_ms() + 10_000)
    jobs, now = queue(client), now_ms()
    jobs.claim("demo", lease, now)
    jobs.renew(job_id, lease, Output("ranker: 10/50", "genre: done\nranker: 10/50\n"))
    shown = client.get(f"/api/ml/jobs/{job_id}").json()["data"]
    assert (shown["state"], shown["progress"]) == ("running", "ranker: 10/50")
    assert shown["log"] == "genre: done\nranker: 10/50\n"
    assert "token" not in json.dumps(shown)
    jobs.finish(job_id, lease, "done", "exit code 0", Output(), now + 90_500)
    assert client.get(f"/api/ml/jobs/{job_id}").json()["data"]["state"] == "done"
    after = train(client)
    assert after["jobId"] != job_id
    assert after["estimatedTime"] == 90.5


def test_a_job_is_cancelled(client: TestClient) -> None:
    path = f"/api/ml/jobs/{train(client)['jobId']}"
    cancelled = client.delete(path)
    assert (cancelled.status_code, cancelled.json()["data"]["state"]) == (200, "cancelled")
    again = client.delete(path)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
    assert again.json()["error"]["message"].endswith("which is cancelled")


def test_a_running_job_is_cancelled_by_its_worker(client: TestClient) -> None:
    path = f"/api/ml/jobs/{train(client)['jobId']}"
    queue(client).claim("demo", Lease("token", now_ms() + 10_000), now_ms())
    for response in (client.delete(path), client.get(path)):
        data = response.json()["data"]
        assert (response.status_code, data["state"], data["cancelRequested"]) == (200, "running", True)


@pytest.mark.parametrize("job_id", ["0" * 32, "x", "a/b", "%00" * 32, "0" * 5000])
def test_an_unknown_job(client: TestClient, job_id: str) -> None:
    for response in (client.get(f"/api/ml/jobs/{job_id}"), client.delete(f"/api/ml/jobs/{job_id}")):
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        ({"model": "genre"}, "model", "expected all, found 'genre'"),
        ({"model": 1}, "model", "expected str, found int"),
        ({}, "model", "is required"),
        ({"model": "all", "limit": 5}, "limit", "unknown field; known are model"),
        ([], "$", "expected object, found array"),
    ],
)
def test_a_wrong_request_is_refused(client: TestClient, body: Any, path: str, message: str) -> None:
    response = client.post("/api/ml/train", json=body)
    assert response.status_code == 422
    assert response.json()["error"]["details"] == [{"path": path, "message": message}]
    assert client.get("/api/ml/jobs").json()["data"] == []


def test_a_wrong_body_is_refused(client: TestClient) -> None:
    assert client.post("/api/ml/train", content=b"{}").status_code == 415
    assert client.post("/api/ml/train", content=b"{", headers={"content-type": "application/json"}).status_code == 400


def test_jobs_are_the_administrators(client: TestClient, manager: ModelManager, tmp_path: Path) -> None:
    requests = (
        ("POST", "/api/ml/train"),
        ("GET", "/api/ml/jobs"),
        ("GET", "/api/ml/jobs/x"),
        ("DELETE", "/api/ml/jobs/x"),
    )
    for method, path in requests:
        assert client.request(method, path, headers={"authorization": ""}).status_code == 401
    assert client.get("/api/ml/jobs", headers={"authorization": "Bearer other"}).status_code == 403
    feedback = f"sqlite:///{tmp_path / 'f.db'}"
    without_store = create_app(manager, Settings(admin_token="secret"))
    without_token = create_app(manager, Settings(feedback=feedback))
    without_registry = create_app(manager.latest, Settings(feedback=feedback, admin_token="secret"))
    for app in (without_store, without_token, without_registry):
        assert {TestClient(app, headers=ADMIN).request(*request).status_code for request in requests} == {404}
        if app.state.feedback:
            app.state.feedback.store.close()


def test_a_database_that_fails_is_unavailable(client: TestClient) -> None:
    with queue(client)._store.writing() as connection:
        connection.exec_driver_sql("DROP TABLE jobs")
    for response in (client.get("/api/ml/jobs"), client.post("/api/ml/train", json={"model": "all"})):
        assert (response.status_code, response.json()["error"]["code"]) == (503, "feedback_unavailable")


def test_the_document_has_the_routes(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    train_, list_, show = (document["paths"][path] for path in PATHS)
    assert list(show) == ["get", "delete"]
    assert set(train_["post"]["responses"]) >= {"202", "401", "403", "422", "503"}
    assert client.post("/api/ml/train", json=_example(train_["post"])).status_code == 202
    for operation in (list_["get"], show["get"]):
        (parameter,) = operation.get("parameters", [{"example": train(client)["jobId"]}])
        path = "/api/ml/jobs" if operation is list_["get"] else f"/api/ml/jobs/{train(client)['jobId']}"
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(client.get(path).json(), schema | {"components": document["components"]})
        assert len(parameter["example"]) == 32


def _example(operation: dict[str, Any]) -> Any:
    return operation["requestBody"]["content"]["application/json"]["example"]
