"""The routes and answers of an application with a feedback store."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from musix_runtime import Engine, create_app
from musix_runtime.feedback import database as databases
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.serving.feedback_endpoints import MAX_REASON_BYTES
from musix_runtime.settings import Settings
from tests.system.servers import CLIENT, MUSIX, serving

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
        assert set(counts(client)) == {"written", "refused", "dropped"}
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
    events = client.post("/api/ml/events", json={"sentAt": "2026-01-31T20:00:00Z", "events": []})
    assert events.status_code == client.delete("/api/ml/listeners/ann", headers=ADMIN).status_code == 404
    expected = "/api/ml/events: expected a route of this server, found one that needs a feedback store"
    assert events.json()["error"]["message"] == expected
    assert "/api/ml/events" not in client.get("/openapi.json").json()["paths"]


def test_a_user_whose_id_cannot_be_stored_is_answered_and_counted(client: TestClient) -> None:
    for user_id in ("a\0b", "x" * 129):
        assert client.post("/api/ml/recommend", json={"userId": user_id}).json()["data"]["listId"]
    assert counts(client)["refused"] == 2


def test_a_mounted_application_records_in_the_lifespan_of_its_host(small_engine: Engine, database: str) -> None:
    music = create_app(small_engine, Settings(feedback=database))
    host = Starlette(routes=[Mount("/music", music)], lifespan=lambda host: music.router.lifespan_context(music))
    with TestClient(host) as client:
        answer = client.post("/music/api/ml/recommend", json={"userId": "listener-001"}).json()
    store = FeedbackStore.open(database)
    assert [exposure.list_id for exposure in store.exposures()] == [answer["data"]["listId"]]
    store.close()


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


@pytest.mark.parametrize("padding", [0, 20_000])
def test_an_event_with_a_lone_surrogate_refuses_no_other(client: TestClient, padding: int) -> None:
    """JSON may have half of a character (RFC 8259, section 8.2), which no text in UTF-8 has."""
    half = "a\ud800"
    events = [event("a"), event(half), event("c", userId=half), event("d", action=half), event("e", **{half: 1})]
    events += [event("f", sessionId="😀"), half, event("g", trackId="x" * padding + half)]
    body = json.dumps({"sentAt": datetime.now(UTC).isoformat(), "events": events})
    response = client.post("/api/ml/events", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200, response.text
    results = response.json()["data"]["events"]
    accepted = ["accepted" if each["status"] == "accepted" else each["eventId"] for each in results]
    assert accepted == ["accepted", None, "c", "d", "e", "accepted", None, "g"]
    assert results[2]["reason"] == "event: expected texts in UTF-8, found '\\ud800'"


def test_a_refused_event_has_a_short_reason_and_no_id_that_cannot_be_stored(client: TestClient) -> None:
    """A thousand of them fit into 1 MB."""
    fields = {f"\u0001{i}": 0 for i in range(100)}
    results = send(client, event("a", **fields), event("b" * 129), event("\u0001", action="sung"))
    assert [each["eventId"] for each in results] == ["a", None, None]
    assert max(len(each["reason"]) for each in results) == MAX_REASON_BYTES
    assert results[0]["reason"].startswith(r"\x010: unknown field; known are eventId, ")


@pytest.mark.parametrize(
    "body",
    [
        '{"sentAt": "\\ud800", "events": [NaN]}',
        '{"sentAt": "\\ud800", "events": [',
        '{"sentAt": "\\ud800", "events": []}',
        '{"\\ud800": 1, "sentAt": "2026-11-28T15:30:00Z", "events": []}',
        '{"sentAt": "2026-11-28T15:30:00Z", "events": "\\ud800"}',
        '"\\ud800"',
    ],
)
def test_what_is_no_json_is_refused_whole(client: TestClient, body: str) -> None:
    response = client.post("/api/ml/events", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    assert response.json()["error"]["message"]


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
    json_type = {"content-type": "application/json"}
    with TestClient(create_app(small_engine, settings)) as client:
        assert client.post("/api/ml/events", json={"sentAt": "x" * 1000, "events": []}).status_code == 413
        assert client.post("/api/ml/events", content=b"{", headers=json_type).status_code == 400
        assert client.post("/api/ml/events", content=b"{}").status_code == 415


def test_a_thousand_events_are_stored(client: TestClient) -> None:
    events = [event(f"{i}", userId=f"user {i % 50}", sessionId="s", listId="l", position=1) for i in range(1000)]
    assert {result["status"] for result in send(client, *events)} == {"accepted"}
    assert {result["status"] for result in send(client, *events)} == {"duplicate"}


@pytest.mark.parametrize("user_id", ["ann", "a/b", "Zoë ?&#%", "ann\n", "\n", "a\nb", "."])
def test_a_listener_is_forgotten(client: TestClient, user_id: str) -> None:
    path = str(httpx2.URL("http://x").copy_with(raw_path=b"/api/ml/listeners/" + _quoted(user_id)).raw_path, "ascii")
    others = {"ann", "ann\n"} - {user_id}
    send(
        client, event("a", userId=user_id), event("b", userId="bob"), *(event(other, userId=other) for other in others)
    )
    assert client.delete(path, headers=ADMIN).json()["data"]["events"] == 1
    (result, other) = send(client, event("c", userId=user_id), event("d", userId="bob"))
    assert result["status"] == "refused"
    assert result["reason"] == "userId: expected a listener who was not forgotten, found one who was"
    assert other["status"] == "accepted"
    assert client.post("/api/ml/recommend", json={"userId": user_id}).status_code == 200
    (kept, *_) = send(client, *(event(f"{other}2", userId=other) for other in others))
    assert kept["status"] == "accepted"


def test_only_the_administrator_forgets_a_listener(client: TestClient) -> None:
    send(client, event("a"))
    assert client.delete("/api/ml/listeners/ann").status_code == 401
    assert client.delete("/api/ml/listeners/ann", headers={"authorization": "Bearer other"}).status_code == 403
    assert client.delete("/api/ml/listeners/ann", headers=ADMIN).json()["data"]["events"] == 1


def test_paths_that_are_not_those_of_routes(client: TestClient) -> None:
    for path in ("/health%0A", "/api/ml/recommend%0A", "/api/ml/jobs%0A"):
        assert client.get(path, headers=ADMIN).status_code == 404
    answer = client.delete("/api/ml/listeners/a%00b", headers=ADMIN)
    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["message"].startswith("expected at most 128 bytes without NUL, found")
    for path in ("/api/ml/listeners/ann%FF", "/api/ml/listeners/%C3", "/api/ml/listeners/%ED%A0%80"):
        response = client.delete(path, headers=ADMIN)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "bad_request")


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
        answers = [CLIENT.post(f"{address}/api/ml/recommend", json=RECOMMEND).json()["data"] for _ in range(30)]
        body = {"sentAt": datetime.now(UTC).isoformat(), "events": [event("a")]}
        results = [CLIENT.post(f"{address}/api/ml/events", json=body).json()["data"]["events"][0] for _ in range(10)]
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


def test_no_byte_of_a_forgotten_listener_is_left(small_engine: Engine, tmp_path: Path) -> None:
    user, others = "the-listener-who-leaves", [f"the-listener-who-stays-{i}" for i in range(40)]
    settings = Settings(feedback=f"sqlite:///{tmp_path / 'f.db'}", admin_token="secret")
    with TestClient(create_app(small_engine, settings)) as client:
        for k in range(10):
            send(client, *(event(f"{k} {i}", userId=[user, *others][i % 41]) for i in range(400)))
            lists = [{"userId": each, "tracks": [{"id": "t"}]} for each in (user, others[k])]
            assert client.post("/api/ml/exposures", json={"exposures": lists * 20}).status_code == 200
        assert any(user.encode() in path.read_bytes() for path in tmp_path.iterdir())
        assert client.delete(f"/api/ml/listeners/{user}", headers=ADMIN).json()["data"]["exposures"] == 200
        files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {"f.db", "f.db-wal"} <= set(files)
    assert others[0].encode() in files["f.db"]
    assert [name for name, content in files.items() if user.encode() in content] == []


def test_no_log_has_the_id_of_a_listener_to_forget(
    small_engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(feedback=f"sqlite:///{tmp_path / 'f.db'}", admin_token="secret", access_log=True)
    path = "/api/ml/listeners/a-listener/who-leaves"
    with TestClient(create_app(small_engine, settings)) as client:
        statuses = [
            client.delete(path, headers=ADMIN).status_code,
            client.delete(path, headers={"authorization": "Bearer other"}).status_code,
            client.get(path).status_code,
        ]
    assert statuses == [200, 403, 405]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == ["/api/ml/listeners/{id}"] * 3
    assert [record.message for record in caplog.records] == [
        "/api/ml/listeners/{id}: a wrong token of the admin, from testclient"
    ]


def test_a_failing_database_counts_as_no_rejection(client: TestClient, database: str) -> None:
    engine = databases.connect(databases.parse_url(database))
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE events")
    engine.dispose()
    body = {"sentAt": datetime.now(UTC).isoformat(), "events": [event()]}
    assert client.post("/api/ml/events", json=body).status_code == 503
    text = client.get("/metrics").text
    assert 'musix_requests_total{route="/api/ml/events",status="503"} 1.0' in text
    assert 'musix_shed_total{route="/api/ml/events"} 0.0' in text


def test_a_locked_file_is_answered_within_seconds(small_bundle: Path, tmp_path: Path) -> None:
    """Clients that wait for 10 s get 503 before, however many of them wait for the lock; then all goes on."""
    file = tmp_path / "f.db"
    with serving(small_bundle, "--feedback", f"sqlite:///{file}") as (address, _), httpx2.Client(timeout=10) as client:

        def post(number: int) -> httpx2.Response:
            time = datetime.now(UTC).isoformat()
            if number % 4 == 0:
                lists = [{"userId": "ann", "tracks": [{"id": "t"}]}]
                return client.post(f"{address}/api/ml/exposures", json={"exposures": lists})
            return client.post(f"{address}/api/ml/events", json={"sentAt": time, "events": [event(f"{number}")]})

        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(40) as threads:
            locked = list(threads.map(post, range(40)))
        other.close()
        later = post(1)
    assert {response.status_code for response in locked} == {503}
    assert {response.headers["retry-after"] for response in locked} <= {"1", "2"}
    assert later.json()["data"]["events"] == [{"eventId": "1", "status": "accepted"}]


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_no_event_is_accepted_into_a_file_that_was_removed(
    small_engine: Engine, tmp_path: Path, replaced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "f.db"
    settings = Settings(feedback=f"sqlite:///{file}", admin_token="secret")
    with TestClient(create_app(small_engine, settings)) as client:
        assert _send(client, "1").status_code == 200
        for each in tmp_path.iterdir():
            each.rename(tmp_path / f"old-{each.name}")
        if replaced:
            file.write_bytes(b"")
        for number in range(3):
            response = _send(client, f"later-{number}")
            assert (response.status_code, response.json()["error"]["code"]) == (503, "feedback_unavailable")
        assert client.delete("/api/ml/listeners/ann", headers=ADMIN).status_code == 503
        assert client.post("/api/ml/recommend", json=RECOMMEND).status_code == 200
    assert f"{file}: expected the file that was opened, found that it was removed or replaced" in caplog.text
    assert file.exists() == replaced


def _send(client: TestClient, event_id: str) -> httpx2.Response:
    body = {"sentAt": datetime.now(UTC).isoformat(), "events": [event(event_id)]}
    return client.post("/api/ml/events", json=body)


def expose(client: TestClient, **fields: object) -> Any:
    body = {"userId": "ann", "tracks": [{"id": "spotify:track:4uLU6hMCjMI75M1A2tKUQC"}, {"id": "t"}]} | fields
    return client.post("/api/ml/exposures", json={"exposures": [body, body | {"userId": "bob"}]})


def test_lists_of_the_host_are_stored(client: TestClient, database: str) -> None:
    shown = datetime.now(UTC) - timedelta(hours=1)
    ids = [each["listId"] for each in expose(client, shownAt=shown.isoformat()).json()["data"]["exposures"]]
    store = FeedbackStore.open(database)
    rows = store.exposures()
    store.close()
    assert [(row.list_id, row.user_id) for row in rows] == list(zip(ids, ("ann", "bob"), strict=True))
    assert (rows[0].source, rows[0].bundle, rows[0].experiment, rows[0].variant) == ("external", "", None, None)
    assert rows[0].time_ms == int(shown.timestamp() * 1000)
    assert json.loads(rows[0].tracks) == [
        {"id": "4uLU6hMCjMI75M1A2tKUQC", "position": 1, "score": None},
        {"id": "t", "position": 2, "score": None},
    ]
    assert counts(client)["written"] == 2


def test_lists_of_forgotten_listeners_are_not_stored(client: TestClient, database: str) -> None:
    client.delete("/api/ml/listeners/ann", headers=ADMIN)
    assert len(expose(client).json()["data"]["exposures"]) == 2
    store = FeedbackStore.open(database)
    assert [row.user_id for row in store.exposures()] == ["bob"]
    store.close()


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ({"userId": "x" * 129}, "exposures[0].userId", "expected at most 128 bytes"),
        ({"tracks": [{"id": "a\0"}]}, "exposures[0].tracks[0].id", "expected at most 128 bytes"),
        ({"shownAt": "2020-01-01T00:00:00Z"}, "exposures[0].shownAt", "expected at most 30 days before the receipt"),
        ({"shownAt": "2090-01-01T00:00:00Z"}, "exposures[0].shownAt", "expected at most 300 s after the receipt"),
        ({"tracks": [{"id": "a"}] * 1001}, "exposures[0].tracks", "expected `array` of length <= 1000"),
    ],
)
def test_a_wrong_list_refuses_all(client: TestClient, fields: dict[str, Any], path: str, message: str) -> None:
    response = expose(client, **fields)
    assert response.status_code == 422
    (detail, *_) = response.json()["error"]["details"]
    assert detail["path"] == path
    assert detail["message"].startswith(message.replace("`", ""))
    assert counts(client)["written"] == 0
