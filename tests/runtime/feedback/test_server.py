"""The routes and answers of an application with a feedback store."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from musix_runtime import Engine, create_app
from musix_runtime.feedback import database as databases
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.settings import Settings
from tests.system.servers import MUSIX, serving

ADMIN = {"authorization": "Bearer secret"}
RECOMMEND = {"userId": "listener-001", "limit": 3, "context": {"hour": 20}}
WITHOUT_EXTRA = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("sqlalchemy", "psycopg"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from musix_runtime.errors import InputError
from musix_runtime.serving import app
from musix_runtime.feedback.opening import open_store
try:
    open_store("sqlite:///feedback.db")
except InputError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def small_engine(small_bundle: Path) -> Engine:
    return Engine.open(small_bundle)


@pytest.fixture
def client(small_engine: Engine, database: str) -> Iterator[TestClient]:
    with TestClient(create_app(small_engine, Settings(feedback=database, admin_token="secret"))) as client:
        yield client


def event(event_id: object = "e1", **fields: object) -> dict[str, object]:
    body = {"eventId": event_id, "userId": "ann", "trackId": "simulated0000000000001", "action": "played"}
    return body | {"occurredAt": datetime.now(UTC).isoformat()} | fields


def send(client: TestClient, *events: object, sent_at: datetime | None = None) -> list[dict[str, str]]:
    body = {"sentAt": (sent_at or datetime.now(UTC)).isoformat(), "events": list(events)}
    response = client.post("/api/ml/events", json=body)
    assert response.status_code == 200, response.text
    return list(response.json()["data"]["events"])


def counts(client: TestClient) -> dict[str, float]:
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith("musix_exposures_total{")]
    return {line.split('"')[1]: float(line.split()[1]) for line in lines}


def test_every_list_has_an_id_and_is_recorded(small_engine: Engine, database: str) -> None:
    with TestClient(create_app(small_engine, Settings(feedback=database))) as client:
        answers = [client.post("/api/ml/recommend", json=RECOMMEND).json()["data"] for _ in range(20)]
        large = RECOMMEND | {"excludeIds": ["x" * 900] * 20}  # answered in a thread
        answers.append(client.post("/api/ml/recommend", json=large).json()["data"])
        assert set(counts(client)) == {"written", "dropped"}
    store = FeedbackStore.open(database)
    recorded = {item.list_id: item for item in store.exposures()}
    store.close()
    assert len({answer["listId"] for answer in answers}) == 21
    assert all(len(bytes.fromhex(answer["listId"])) == 16 for answer in answers)
    assert set(recorded) == {answer["listId"] for answer in answers}
    first = recorded[answers[0]["listId"]]
    assert (first.user_id, first.bundle, first.source) == ("listener-001", small_engine.bundle.name, "hybrid")
    assert first.digest == small_engine.bundle.digest
    assert json.loads(first.context) == {"hour": 20}
    shown = [{name: track[name] for name in ("id", "position", "score")} for track in answers[0]["recommendations"]]
    assert json.loads(first.tracks) == shown
    assert abs(first.time_ms / 1000 - datetime.fromisoformat(answers[0]["generatedAt"]).timestamp()) < 5


def test_a_server_without_feedback_has_no_list_ids_and_no_routes(small_engine: Engine) -> None:
    client = TestClient(create_app(small_engine, Settings(admin_token="secret")))
    assert "listId" not in client.post("/api/ml/recommend", json=RECOMMEND).json()["data"]
    assert client.post("/api/ml/events", json={"sentAt": "2026-01-31T20:00:00Z", "events": []}).status_code == 404
    assert client.delete("/api/ml/listeners/ann", headers=ADMIN).status_code == 404
    assert "/api/ml/events" not in client.get("/openapi.json").json()["paths"]


def test_a_user_whose_id_cannot_be_stored_is_answered_and_counted(client: TestClient) -> None:
    for user_id in ("a\0b", "x" * 129):
        assert client.post("/api/ml/recommend", json={"userId": user_id}).json()["data"]["listId"]
    assert counts(client)["dropped"] == 2


def test_each_event_has_its_own_result(client: TestClient) -> None:
    results = send(
        client,
        event("a", trackId="spotify:track:4uLU6hMCjMI75M1A2tKUQC", listId="l", position=1, sessionId="s", msPlayed=5),
        event("b", action="sung"),
        event("a"),
        event("c", occurredAt="2020-01-01T00:00:00Z"),
        {"eventId": "d"},
        event(7),
        "an event",
        event("e", userId="nul\0"),
        event("f"),
    )
    assert [result["status"] for result in results] == [
        *("accepted", "refused", "duplicate", "refused", "refused", "refused", "refused", "refused", "accepted")
    ]
    assert [result["eventId"] for result in results] == ["a", "b", "a", "c", "d", None, None, "e", "f"]
    assert "reason" not in results[0]
    assert results[1]["reason"].startswith("action: expected shown, played")
    assert results[3]["reason"].startswith("occurredAt: expected at most 30 days before sentAt")
    assert results[4]["reason"].startswith("userId: is required; ")
    assert [result["status"] for result in send(client, event("f"), event("g"))] == ["duplicate", "accepted"]


def test_clocks_of_clients_may_be_wrong(client: TestClient, database: str) -> None:
    wrong = datetime.now(UTC) - timedelta(days=4000)
    send(client, event("a", occurredAt=(wrong - timedelta(minutes=2)).isoformat()), sent_at=wrong)
    store = FeedbackStore.open(database)
    (stored,) = store.events_of(store.days()[0])
    store.close()
    assert stored.received_ms - stored.occurred_ms == 120_000
    assert abs(stored.received_ms / 1000 - datetime.now(UTC).timestamp()) < 30


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        ({"events": []}, 422, "sentAt"),
        ({"sentAt": "2026-01-31T20:00:00", "events": []}, 422, "sentAt"),
        ({"sentAt": "2026-01-31T20:00:00Z"}, 422, "events"),
        ({"sentAt": "2026-01-31T20:00:00Z", "events": {}}, 422, "events"),
        ({"sentAt": "2026-01-31T20:00:00Z", "events": [1] * 1001}, 422, "events"),
        ({"sentAt": "2026-01-31T20:00:00Z", "events": [], "sender": "x"}, 422, "sender"),
        ([], 422, "$"),
    ],
)
def test_a_wrong_envelope_is_refused(client: TestClient, body: Any, status: int, path: str) -> None:
    response = client.post("/api/ml/events", json=body)
    assert response.status_code == status
    assert [detail["path"] for detail in response.json()["error"]["details"]] == [path]


def test_bodies_have_the_limits_of_other_routes(small_engine: Engine, tmp_path: Path) -> None:
    settings = Settings(feedback=f"sqlite:///{tmp_path / 'f.db'}", max_body_bytes=1000)
    client = TestClient(create_app(small_engine, settings))
    assert client.post("/api/ml/events", json={"sentAt": "x" * 1000, "events": []}).status_code == 413
    assert client.post("/api/ml/events", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert client.post("/api/ml/events", content=b"{}").status_code == 415


def test_a_thousand_events_are_stored(client: TestClient) -> None:
    events = [event(f"{i}", userId=f"user {i % 50}", sessionId="s", listId="l", position=1) for i in range(1000)]
    assert {result["status"] for result in send(client, *events)} == {"accepted"}
    assert {result["status"] for result in send(client, *events)} == {"duplicate"}


@pytest.mark.parametrize("user_id", ["ann", "a/b", "Zoë ?&#%"])
def test_a_listener_is_forgotten(client: TestClient, user_id: str) -> None:
    path = str(httpx2.URL("http://x").copy_with(raw_path=b"/api/ml/listeners/" + _quoted(user_id)).raw_path, "ascii")
    send(client, event("a", userId=user_id), event("b", userId="bob"))
    assert client.delete(path).status_code == 401
    assert client.delete(path, headers={"authorization": "Bearer other"}).status_code == 403
    assert client.delete(path, headers=ADMIN).json()["data"]["events"] == 1
    (result, other) = send(client, event("c", userId=user_id), event("d", userId="bob"))
    assert result["status"] == "refused"
    assert result["reason"] == "userId: expected a listener who was not forgotten, found one who was"
    assert other["status"] == "accepted"
    assert client.post("/api/ml/recommend", json={"userId": user_id}).status_code == 200


def _quoted(text: str) -> bytes:
    return "".join(f"%{byte:02x}" for byte in text.encode()).encode()


def test_a_failing_database_stops_no_answer(client: TestClient, database: str) -> None:
    engine = databases.connect(databases.parse_url(database))
    with engine.begin() as connection:
        for table in ("events", "exposures"):
            connection.exec_driver_sql(f"DROP TABLE {table}")
    engine.dispose()
    response = client.post("/api/ml/events", json={"sentAt": datetime.now(UTC).isoformat(), "events": [event()]})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "2"
    assert response.json()["error"]["code"] == "feedback_unavailable"
    assert "events" not in response.json()["error"]["message"]
    assert client.post("/api/ml/recommend", json=RECOMMEND).json()["data"]["listId"]


def test_document_has_the_routes_with_examples_that_are_answered(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    example = paths["/api/ml/events"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert client.post("/api/ml/events", json=example).json()["data"]["events"][0]["status"] == "accepted"
    (parameter,) = paths["/api/ml/listeners/{id}"]["delete"]["parameters"]
    assert (parameter["name"], parameter["in"], parameter["example"]) == ("id", "path", "listener-000")
    assert client.get("/docs").status_code == 200


def test_workers_of_a_server_share_the_database(small_bundle: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'f.db'}"
    with serving(small_bundle, "--workers", 2, "--feedback", url) as (address, _):
        answers = [httpx2.post(f"{address}/api/ml/recommend", json=RECOMMEND).json()["data"] for _ in range(30)]
        body = {"sentAt": datetime.now(UTC).isoformat(), "events": [event("a")]}
        results = [httpx2.post(f"{address}/api/ml/events", json=body).json()["data"]["events"][0] for _ in range(10)]
    assert [result["status"] for result in results] == ["accepted"] + ["duplicate"] * 9
    store = FeedbackStore.open(url)
    assert {item.list_id for item in store.exposures()} == {answer["listId"] for answer in answers}
    store.close()


def test_a_wrong_database_is_an_error_of_the_command(small_bundle: Path) -> None:
    command = [MUSIX, "serve", small_bundle, "--port", "0", "--feedback", "mysql://host/db"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: feedback: expected sqlite:///FILE or postgresql+psycopg://" in done.stderr


def test_without_the_extra_the_error_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRA], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "feedback: expected the extra feedback, found no sqlalchemy; install it with: "
        "pip install 'musix-edge[feedback]'\n"
    )
