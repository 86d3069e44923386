"""The OpenAPI 3.1 document of the HTTP interface, made from the table of routes and the types of `schemas.py`."""

import re
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from musix_runtime.engine import Engine
from musix_runtime.models.mood import MOODS
from musix_runtime.schemas import BATCH_LIMIT, TEXT_LIMIT, ClassifyRequest, ErrorInfo, Filters

if TYPE_CHECKING:
    from musix_runtime.serving.routes import Route

REFERENCE = "#/components/schemas/{name}"
ERROR_DESCRIPTIONS = {
    400: "The body is not JSON in UTF-8, or not gzip although the content encoding says so.",
    401: "The request has no token.",
    403: "The token is not that of the administrator.",
    404: "The track is not in the catalogue, or the experiment or job does not exist.",
    408: "The body was not received in time.",
    409: "The action failed, and the same bundle is served as before; or a file of the registry is broken; or the job "
    "is over.",
    413: "The body is too large, packed or unpacked.",
    415: "The content type is not application/json, the content encoding not gzip, or the transfer encoding another.",
    422: "Fields are wrong. Up to 20 are named by their paths, or only the first one if the body is above 16 KiB.",
    503: "The server is overloaded, the files of the bundle have changed, or the feedback database does not answer. "
    "`Retry-After` says when to try again.",
}
BODY_DESCRIPTION = "JSON in UTF-8. With `Content-Encoding: gzip` it may be packed; the limits hold for both sizes."
TAGS = {
    "models": "Queries to the models of the bundle.",
    "feedback": "What listeners did with the tracks.",
    "experiments": "Variants of listeners, and lists that the host made.",
    "server": "The state of the server and its documentation.",
    "admin": "Actions of the administrator.",
}
ID_SCHEMA = {"type": "string", "minLength": 1, "maxLength": TEXT_LIMIT}  # of an id in a path: a listener's
# Schemas and examples of the other parameters in paths: the number of an experiment, the id of a job.
PARAMETERS: dict[str, dict[str, Any]] = {
    "number": {"schema": {"type": "integer", "minimum": 1, "maximum": 10**9 - 1}, "example": 1},
    "jobId": {"schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"}, "example": "5f0c6a3e9b1d4c7f8a2e6b0d9c3f1a75"},
}
DEFAULT_USER_ID = "listener-001"  # where the bundle knows no users


@dataclass(frozen=True)
class Examples:
    """Ids of the bundle that is served, for the examples of requests, and its genres."""

    track_id: str
    user_id: str
    genres: list[str]

    @classmethod
    def of(cls, engine: Engine) -> "Examples":
        """Return the first track of the catalogue and the first user of the collab part."""
        users = engine.retriever.collab.listeners
        first_user = users.take(np.array([0])) if len(users.sorted) else [DEFAULT_USER_ID]
        return cls(engine.catalog.track_id(0), first_user[0], engine.catalog.genres)

    def fill(self, example: Any) -> Any:
        """Return an example of the table of routes with these ids in it."""
        if isinstance(example, dict):
            return {name: self.fill(value) for name, value in example.items()}
        if isinstance(example, list):
            return [self.fill(item) for item in example]
        return {"{trackId}": self.track_id, "{userId}": self.user_id}.get(example, example)


def document(routes: "list[Route]", examples: Examples) -> dict[str, Any]:
    """Return the document of some routes."""
    types = _types(routes)
    schemas_of_types, components = msgspec.json.schema_components(types, ref_template=REFERENCE)
    schemas = dict(zip(map(repr, types), schemas_of_types, strict=True))
    _require_track_or_features(components[ClassifyRequest.__name__])
    for name, names in (("genres", examples.genres), ("moods", list(MOODS))):
        _enumerate(components[Filters.__name__]["properties"][name], names)
    components["ErrorResponse"] = _envelope(False, error=schemas[repr(ErrorInfo)])
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas, examples)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "musix-edge",
            "version": version("musix-edge"),
            "description": "Genre and mood of tracks, and recommendations with reasons, from one verified bundle.",
        },
        "tags": [{"name": name, "description": TAGS[name]} for name in dict.fromkeys(route.tag for route in routes)],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"admin": {"type": "http", "scheme": "bearer"}}},
    }


def _types(routes: "list[Route]") -> list[Any]:
    """Return each type of a request, response or error once."""
    found = [type_ for route in routes for type_ in (route.request, route.response) if type_ is not None]
    return list({repr(type_): type_ for type_ in [*found, ErrorInfo]}.values())


def _operation(route: "Route", schemas: dict[str, Any], examples: Examples) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": route.operation_id, "tags": [route.tag], "summary": route.summary}
    if route.admin:
        operation["security"] = [{"admin": []}]
    if names := re.findall(r"{(\w+)}", route.path):
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, **_path_parameter(name, examples)} for name in names
        ]
    if route.request is not None:
        schema = schemas[repr(route.request)]
        if schema.get("type") == "array":
            schema = schema | {"maxItems": BATCH_LIMIT}
        content = {"application/json": {"schema": schema, "example": examples.fill(route.example)}}
        operation["requestBody"] = {"description": BODY_DESCRIPTION, "required": True, "content": content}
    operation["responses"] = {str(route.status): _success(route, schemas)} | {
        str(status): _error(status) for status in sorted(route.errors)
    }
    return operation


def _path_parameter(name: str, examples: Examples) -> dict[str, Any]:
    return PARAMETERS.get(name) or {"schema": ID_SCHEMA, "example": examples.user_id}


def _success(route: "Route", schemas: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.response is not None:
        schema = schemas[repr(route.response)]
        content = {"schema": _envelope(True, data=schema) if route.enveloped else schema}
    elif route.media_type.startswith("text/"):
        content = {"schema": {"type": "string"}}
    return {"description": "Success.", "content": {route.media_type: content}}


def _error(status: int) -> dict[str, Any]:
    schema = {"$ref": REFERENCE.format(name="ErrorResponse")}
    return {"description": ERROR_DESCRIPTIONS[status], "content": {"application/json": {"schema": schema}}}


def _envelope(success: bool, **content: dict[str, Any]) -> dict[str, Any]:
    properties = {"success": {"const": success}, **content}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _enumerate(schema: dict[str, Any], names: list[str]) -> None:
    """Require in the schema of a list or null that the items are some of these names."""
    (only,) = (option for option in schema["anyOf"] if option["type"] == "array")
    only["items"] = {"type": "string", "enum": names}


def _require_track_or_features(schema: dict[str, Any]) -> None:
    """Require in the schema of ClassifyRequest a track id or audio features that are not null."""
    schema["anyOf"] = [{"required": ["trackId"]}, {"required": ["audioFeatures"]}]
    for name in ("trackId", "audioFeatures"):
        (only,) = (option for option in schema["properties"][name]["anyOf"] if option.get("type") != "null")
        schema["properties"][name] = dict(only)
