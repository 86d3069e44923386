import json
import logging
import re
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from musix_runtime import Engine, create_app
from musix_runtime.models.mood import MOODS
from musix_runtime.models.ranker import Ranker
from musix_runtime.serving import openapi
from musix_runtime.serving.routes import routes_of
from musix_runtime.settings import Settings
from musix_runtime.timing import RECOMMEND_STAGES
from tests.features import FEATURES

TRACK = "simulated0000000000001"


@pytest.fixture(scope="module")
def client(engine: Engine) -> TestClient:
    return TestClient(create_app(engine), raise_server_exceptions=False)


def failure(response) -> dict:
    body = response.json()
    assert body["success"] is False
    assert set(body["error"]) == {"code", "message", "details"}
    return body["error"]


def test_classify_answers_features_and_ids(client: TestClient) -> None:
    for question in ({"trackId": f"spotify:track:{TRACK}"}, {"audioFeatures": FEATURES, "artists": ["Nobody"]}):
        response = client.post("/api/ml/classify", json=question)
        data = response.json()["data"]
        assert response.status_code == 200
        assert len(data["genres"]) == 5
        assert set(data["mood"]["probabilities"]) == {"happy", "sad", "energetic", "calm", "focus"}
        assert data["mood"]["primary"] in data["mood"]["probabilities"]
        assert data["timestamp"].endswith("Z")


def test_a_batch_is_answered_in_order(client: TestClient) -> None:
    tracks = [f"simulated{i:013d}" for i in (5, 1, 9)]
    many = client.post("/api/ml/classify/batch", json=[{"trackId": item} for item in tracks]).json()["data"]
    single = [client.post("/api/ml/classify", json={"trackId": item}).json()["data"] for item in tracks]
    assert [item["genres"][0]["name"] for item in many] == [item["genres"][0]["name"] for item in single]
    assert client.post("/api/ml/classify/batch", json=[]).json() == {"success": True, "data": []}
    assert client.post("/api/ml/classify/batch", json=[{"trackId": TRACK}] * 1000).status_code == 200


def test_batch_error_has_all_wrong_tracks(client: TestClient) -> None:
    response = client.post("/api/ml/classify/batch", json=[{"trackId": TRACK}, {"trackId": 1}, {"track": "x"}])
    assert response.status_code == 422
    assert [item["path"] for item in failure(response)["details"]] == ["[1].trackId", "[2].track"]
    assert client.post("/api/ml/classify/batch", json=[{}] * 1001).status_code == 422
    assert failure(client.post("/api/ml/classify/batch", json=[{"trackId": TRACK}, {"trackId": "x"}]))["details"] == [
        {"path": "[1].trackId", "message": "unknown track"}
    ]


def test_recommend_and_similar(client: TestClient) -> None:
    data = client.post("/api/ml/recommend", json={"userId": "listener-001", "limit": 3, "context": {"hour": 8}}).json()[
        "data"
    ]
    assert data["source"] == "hybrid"
    assert len(data["recommendations"]) == 3
    assert set(data["recommendations"][0]) == {
        "id", "name", "artist", "score", "reason", "contributions", "because", "genre", "mood", "position",
    }  # fmt: skip
    assert len(client.post("/api/ml/similar", json={"trackId": TRACK, "limit": 3}).json()["data"]["tracks"]) == 3


def test_health_readiness_and_headers(client: TestClient, engine: Engine) -> None:
    health = {"status": "healthy", "models_loaded": 6}
    assert client.get("/health").json() == {"success": True, "data": health, **health}
    ready = client.get("/ready")
    identity = {"status": "ready", "name": "demo", "version": "1.0.0", "digest": engine.bundle.digest}
    assert ready.json() == {"success": True, "data": identity, **identity}
    for response in (ready, client.get("/nowhere"), client.post("/api/ml/similar", json={})):
        assert response.headers["x-bundle"] == f"demo-1.0.0@{engine.bundle.digest}"
        assert response.headers["server-timing"].startswith("total;dur=")


def test_server_timing_has_the_stages(client: TestClient) -> None:
    timing = client.post("/api/ml/recommend", json={"userId": "listener-001"}).headers["server-timing"]
    names = [item.strip().partition(";")[0] for item in timing.split(",")]
    assert names == ["total", "HTTP", *RECOMMEND_STAGES, "JSON"]


def test_documentation_loads_nothing_from_other_hosts(client: TestClient, engine: Engine) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert set(document["components"]["schemas"]) >= {
        "RecommendRequest",
        "Recommendation",
        "AudioFeatures",
        "ErrorResponse",
    }
    assert document["components"]["schemas"]["RecommendRequest"]["properties"]["limit"]["maximum"] == 100
    filters = document["components"]["schemas"]["Filters"]["properties"]
    names = {name: filters[name]["anyOf"][0]["items"]["enum"] for name in ("genres", "moods")}
    assert names == {"genres": engine.bundle.manifest.families, "moods": list(MOODS)}
    assert filters["releasedAfter"]["anyOf"][0] == {"type": "string", "format": "date"}
    assert "gzip" in document["paths"]["/api/ml/classify"]["post"]["requestBody"]["description"]
    page = client.get("/docs").text
    assert all(path in page for path in document["paths"])
    assert re.findall(r"https?://", page) == []


def test_wrong_filters_are_wrong_fields(client: TestClient) -> None:
    request = {"userId": "x", "filters": {"genres": ["polka"], "moods": ["sad"]}}
    for path, fields in (("recommend", request), ("similar", {"trackId": TRACK, "filters": request["filters"]})):
        response = client.post(f"/api/ml/{path}", json=fields)
        assert response.status_code == 422
        assert [each["path"] for each in failure(response)["details"]] == ["filters.genres[0]"]
    request["filters"] = {"releasedAfter": "2021-02-30"}
    response = client.post("/api/ml/recommend", json=request)
    expected = "expected a date that exists, YYYY-MM-DD, found '2021-02-30'"
    assert failure(response)["details"] == [{"path": "filters.releasedAfter", "message": expected}]


@pytest.mark.parametrize("admin", [True, False])
def test_document_has_exactly_the_routes(engine: Engine, admin: bool) -> None:
    routes = routes_of(admin=admin, registry=admin)
    document = openapi.document(routes, openapi.Examples.of(engine))
    documented = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert documented == {(route.method, route.path) for route in routes}
    assert ("/api/ml/reload" in document["paths"]) is admin
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert {tag for operation in operations for tag in operation["tags"]} == {tag["name"] for tag in document["tags"]}


def test_examples_of_the_document_are_answered(client: TestClient) -> None:
    sources = set()
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        if "post" in methods:
            example = methods["post"]["requestBody"]["content"]["application/json"]["example"]
            response = client.post(path, json=example)
            assert response.status_code == 200, response.text
            sources.add(response.json()["data"].get("source") if isinstance(response.json()["data"], dict) else None)
    assert "hybrid" in sources  # the user of the example is known


def test_the_index_links_to_every_page_where_the_app_is_mounted(engine: Engine) -> None:
    client = TestClient(Starlette(routes=[Mount("/music", create_app(engine))]))
    page = client.get("/music/")
    assert page.headers["content-type"].startswith("text/html")
    links = re.findall(r'href="([^"]+)"', page.text)
    assert set(links) == {"health", "ready", "metrics", "openapi.json", "docs"}
    assert client.get("/music/openapi.json").json()["servers"] == [{"url": "/music"}]
    assert all(client.get(f"/music/{link}").status_code == 200 for link in links)


def test_applications_have_separate_metrics(engine: Engine) -> None:
    first, second = (TestClient(create_app(engine)) for _ in range(2))
    first.post("/api/ml/recommend", json={"userId": "x"})
    counted = 'musix_requests_total{route="/api/ml/recommend",status="200"} 1.0'
    assert counted in first.get("/metrics").text
    assert counted not in second.get("/metrics").text


@pytest.mark.parametrize(
    ("method", "path", "arguments", "status", "code"),
    [
        ("POST", "/api/ml/similar", {"json": {"trackId": "unknown"}}, 404, "unknown_track"),
        ("POST", "/api/ml/classify", {"json": {"trackId": "unknown"}}, 404, "unknown_track"),
        ("POST", "/api/ml/classify", {"json": {}}, 422, "invalid_fields"),
        ("POST", "/api/ml/recommend", {"json": {"userId": "a", "limit": 0}}, 422, "invalid_fields"),
        ("POST", "/api/ml/recommend", {"json": {"userId": "a", "limit": 101}}, 422, "invalid_fields"),
        (
            "POST",
            "/api/ml/recommend",
            {"content": b"{", "headers": {"content-type": "application/json"}},
            400,
            "bad_request",
        ),
        ("POST", "/api/ml/recommend", {"content": b"{}"}, 415, "unsupported_media_type"),
        ("GET", "/api/ml/recommend", {}, 405, "method_not_allowed"),
        ("GET", "/nowhere", {}, 404, "not_found"),
    ],
)
def test_errors_have_status_and_code(
    client: TestClient, method: str, path: str, arguments: dict, status: int, code: str
) -> None:
    response = client.request(method, path, **arguments)
    assert response.status_code == status
    assert failure(response)["code"] == code


def test_a_body_over_the_limit_is_refused(engine: Engine) -> None:
    client = TestClient(create_app(engine, Settings(max_body_bytes=100)))
    response = client.post("/api/ml/recommend", json={"userId": "a" * 200})
    assert response.status_code == 413
    assert failure(response)["message"] == "body: expected at most 100 bytes, found more"


def test_internal_error_has_no_details(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Engine, request: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(Engine, "similar", fail)
    response = TestClient(create_app(engine), raise_server_exceptions=False).post(
        "/api/ml/similar", json={"trackId": "a"}
    )
    assert response.status_code == 500
    assert failure(response)["code"] == "internal_error"
    assert "x-bundle" in response.headers
    assert "secret" not in json.dumps(response.json())


class NanAt13:
    """The session of a ranker whose graph has no valid result at one hour."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def run(self, outputs: list[str], inputs: dict[str, Any]) -> list[Any]:
        (scores,) = self.session.run(outputs, inputs)
        at_13 = np.repeat(inputs["context"][:, 1] == 13, len(scores) // len(inputs["context"]))
        return [np.where(at_13[:, None], np.nan, scores)]


def test_a_graph_without_a_valid_result_is_one_line_of_the_log(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    broken = engine.with_models(ranker=Ranker(NanAt13(engine.ranker.session)))
    with TestClient(create_app(broken), raise_server_exceptions=False) as client:
        for hour in (13, 12, 13):
            response = client.post("/api/ml/recommend", json={"userId": "a", "context": {"hour": hour}})
            assert response.status_code == (500 if hour == 13 else 200)
            if hour == 13:
                assert failure(response)["message"] == "the server failed to answer; see its log"
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.getMessage() == f"{engine.bundle.label}: score: expected numbers in 0..1, found nan to nan"
    assert not line.exc_info


def test_cors_is_off_by_default(engine: Engine) -> None:
    asked = {"headers": {"origin": "https://player.example"}}
    closed = TestClient(create_app(engine)).get("/health", **asked)
    opened = TestClient(create_app(engine, Settings(cors_origins=("https://player.example",)))).get("/health", **asked)
    assert "access-control-allow-origin" not in closed.headers
    assert opened.headers["access-control-allow-origin"] == "https://player.example"
    assert {"X-Bundle", "X-Request-Id", "Server-Timing", "Retry-After"} == set(
        opened.headers["access-control-expose-headers"].split(", ")
    )


def test_cors_allows_all_methods_of_the_routes(engine: Engine) -> None:
    client = TestClient(create_app(engine, Settings(cors_origins=("https://player.example",))))
    asked = {"Origin": "https://player.example", "Access-Control-Request-Method": "DELETE"}
    answer = client.options("/api/ml/listeners/somebody", headers=asked)
    assert (answer.status_code, answer.headers["access-control-allow-methods"]) == (200, "GET, POST, DELETE")


def test_app_can_be_mounted(engine: Engine) -> None:
    client = TestClient(Starlette(routes=[Mount("/music", create_app(engine))]))
    assert client.post("/music/api/ml/similar", json={"trackId": TRACK}).status_code == 200
    assert failure(client.get("/music/nowhere"))["code"] == "not_found"
    missing = "expected a route of this server, found one that needs MUSIX_ADMIN_TOKEN and a feedback store"
    assert missing in failure(client.delete("/music/api/ml/listeners/ann"))["message"]
