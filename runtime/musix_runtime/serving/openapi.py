"""The HTTP interface as an OpenAPI 3.1 document, made from the messages themselves."""

from importlib.metadata import version
from typing import Any

import msgspec

from musix_runtime.schemas import (
    BATCH_LIMIT,
    Classification,
    ClassifyRequest,
    Recommendations,
    RecommendRequest,
    Similar,
    SimilarRequest,
)

REFERENCE = "#/components/schemas/{name}"
FAILURES = {
    400: "The body is not JSON in UTF-8, or not gzip though it is said to be.",
    401: "No token was given.",
    403: "Another token than the admin's.",
    404: "No such track in the catalogue.",
    408: "The body did not come in time.",
    409: "Refused; the bundle that answered before answers on.",
    413: "The body is too large, packed or unpacked.",
    415: "The content type is not application/json, or the content encoding is not gzip.",
    422: "Fields are wrong; up to 20 are named by their paths, of a body above 16 KiB the first.",
    503: "Too much to do, or the bundle's files have changed; `Retry-After` says when to come back.",
}
PACKING = "JSON in UTF-8. It may be packed: `Content-Encoding: gzip`; its limit holds for what it unpacks to as well."
BODY = (400, 408, 413, 415, 422, 503)  # what any request with a body may meet
EXAMPLES: dict[str, Any] = {
    "/api/ml/classify": {"trackId": "spotify:track:simulated0000000000001"},
    "/api/ml/classify/batch": [{"trackId": "spotify:track:simulated0000000000001"}],
    "/api/ml/recommend": {"userId": "listener-001", "limit": 5},
    "/api/ml/similar": {"trackId": "spotify:track:simulated0000000000001", "limit": 5},
}


def document(admin: bool) -> dict[str, Any]:
    """The document; with the admin's routes if the server has them."""
    types = (ClassifyRequest, Classification, RecommendRequest, Recommendations, SimilarRequest, Similar)
    found, schemas = msgspec.json.schema_components(types, ref_template=REFERENCE)
    classify, classification, recommend, recommendations, similar, tracks = found
    schemas["ClassifyRequest"]["anyOf"] = [{"required": ["trackId"]}, {"required": ["audioFeatures"]}]
    for name in ("trackId", "audioFeatures"):  # one of them must say something
        schemas["ClassifyRequest"]["properties"][name] = _not_null(schemas["ClassifyRequest"]["properties"][name])
    schemas["Failure"] = _failure_schema()
    many = {"type": "array", "items": classify, "maxItems": BATCH_LIMIT}
    paths = {
        "/api/ml/classify": _post("Genre and mood of one track.", classify, classification, (*BODY, 404)),
        "/api/ml/classify/batch": _post(
            f"Genre and mood of up to {BATCH_LIMIT:,} tracks, in order.",
            many,
            {"type": "array", "items": classification},
            (*BODY, 404),
        ),
        "/api/ml/recommend": _post("What a listener should hear next, and why.", recommend, recommendations, BODY),
        "/api/ml/similar": _post("The nearest tracks.", similar, tracks, (*BODY, 404)),
        "/health": _get("Whether the process lives.", "application/json"),
        "/ready": _get("Which bundle answers: verified, and asked its golden cases.", "application/json", (503,)),
        "/metrics": _get("Counters in Prometheus' text format.", "text/plain"),
        "/openapi.json": _get("This document.", "application/json"),
        "/docs": _get("This document as a page.", "text/html"),
    }
    if admin:
        paths |= {
            "/api/ml/reload": _admin(
                "Look at the store's live pointer now, and open its bundle again if it was refused."
            ),
            "/api/ml/rollback": _admin("Go back to the version that was live before."),
        }
    for path, example in EXAMPLES.items():
        paths[path]["post"]["requestBody"]["content"]["application/json"]["example"] = example
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "musix-edge",
            "version": version("musix-edge"),
            "description": "What genre and mood is this track; what should this listener hear next, and why.",
        },
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"admin": {"type": "http", "scheme": "bearer"}}},
    }


def _post(summary: str, request: dict[str, Any], answer: dict[str, Any], failures: tuple[int, ...]) -> dict[str, Any]:
    body = {"description": PACKING, "required": True, "content": {"application/json": {"schema": request}}}
    responses = {"200": _success(answer)} | _failures(failures)
    return {"post": {"summary": summary, "requestBody": body, "responses": responses}}


def _get(summary: str, kind: str, failures: tuple[int, ...] = ()) -> dict[str, Any]:
    responses = {"200": {"description": summary, "content": {kind: {}}}} | _failures(failures)
    return {"get": {"summary": summary, "responses": responses}}


def _admin(summary: str) -> dict[str, Any]:
    names = ("name", "version", "digest")
    identity = {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": list(names)}
    responses = {"200": _success(identity)} | _failures((401, 403, 409, 503))
    return {"post": {"summary": summary, "security": [{"admin": []}], "responses": responses}}


def _success(answer: dict[str, Any]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"success": {"const": True}, "data": answer},
        "required": ["success", "data"],
    }
    return {"description": "The answer.", "content": {"application/json": {"schema": schema}}}


def _failures(statuses: tuple[int, ...]) -> dict[str, Any]:
    schema = {"$ref": REFERENCE.format(name="Failure")}
    return {
        str(status): {"description": FAILURES[status], "content": {"application/json": {"schema": schema}}}
        for status in sorted(statuses)
    }


def _failure_schema() -> dict[str, Any]:
    texts = {"type": "object", "properties": {"path": {"type": "string"}, "message": {"type": "string"}}}
    error = {
        "type": "object",
        "properties": {
            "code": {"type": "string"},
            "message": {"type": "string"},
            "details": {"type": "array", "items": texts},
        },
        "required": ["code", "message", "details"],
    }
    return {
        "type": "object",
        "properties": {"success": {"const": False}, "error": error},
        "required": ["success", "error"],
    }


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    (only,) = (each for each in schema["anyOf"] if each.get("type") != "null")
    return dict(only)
