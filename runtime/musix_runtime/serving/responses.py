"""Responses: JSON, and the one form of every failure."""

from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from musix_runtime.errors import RequestError, UnknownTrackError, Violation, shorten

RETRY_AFTER = 2  # seconds, after which a bundle that has changed is looked at again
CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timed_out",
    409: "conflict",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "invalid_fields",
    500: "internal_error",
    503: "busy",
}


def as_json(content: Any, status: int = 200) -> Response:
    """Anything that msgspec encodes."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def failure(status: int, message: str, details: list[Violation] | None = None, code: str | None = None) -> Response:
    """The one form that every failure has."""
    error = {"code": code or CODES.get(status, "error"), "message": message, "details": details or []}
    return as_json({"success": False, "error": error}, status)


async def http_error(request: Request, error: Exception) -> Response:
    """Starlette's handler of HTTPException."""
    if not isinstance(error, HTTPException):
        raise error
    path = shorten(request.url.path)
    if error.status_code == 404:
        error.detail = f"{path}: expected a route of this server, found none"
    elif error.status_code == 405:
        error.detail = f"{path}: expected another method, found {shorten(request.method)}"
    return failed(error)


def failed(error: HTTPException) -> Response:
    """The failure that an exception of HTTP is, with its headers."""
    response = failure(error.status_code, error.detail)
    response.headers.update(error.headers or {})
    return response


async def not_ready(request: Request, error: Exception) -> Response:
    """Starlette's handler of NotReadyError."""
    response = failure(503, str(error), code="not_ready")
    response.headers["retry-after"] = str(RETRY_AFTER)
    return response


async def input_error(request: Request, error: Exception) -> Response:
    """Starlette's handler of InputError."""
    if isinstance(error, RequestError):
        more = f"; {error.more:,} more are not shown" if error.more else ""
        return failure(422, f"the request has wrong fields{more}", error.violations)
    if isinstance(error, UnknownTrackError):
        return failure(404, str(error), [Violation(error.path, "unknown track")], "unknown_track")
    raise error
