"""Responses: JSON, and the common form of all errors."""

import logging
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from musix_runtime.errors import FieldError, RequestError, UnknownTrackError, shorten
from musix_runtime.schemas import ErrorInfo
from musix_runtime.serving.request_context import SCOPE_KEY
from musix_runtime.serving.throttled_log import ThrottledLog

_log = ThrottledLog(logging.getLogger(__name__))
RETRY_AFTER_S = 2  # a changed bundle has been opened again by then
INTERNAL_ERROR = "the server failed to answer; see its log"
ERROR_CODES = {
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
    """Return a response of anything that msgspec encodes."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def probe_response(data: Any) -> Response:
    """Return a success whose fields are also beside `data`, where probes look for them."""
    return as_json({"success": True, "data": data, **msgspec.to_builtins(data)})


def error_response(
    status: int, message: str, details: list[FieldError] | None = None, code: str | None = None
) -> Response:
    """Return an error response."""
    error = ErrorInfo(code or ERROR_CODES.get(status, "error"), message, details or [])
    return as_json({"success": False, "error": error}, status)


async def http_error(request: Request, error: Exception) -> Response:
    """Handle an HTTPException for Starlette."""
    if not isinstance(error, HTTPException):
        raise error
    path = shorten(request.url.path)
    if error.status_code == 405:
        error.detail = f"{path}: expected another method, found {shorten(request.method)}"
    return from_http_exception(error)


def from_http_exception(error: HTTPException) -> Response:
    """Return the error response to an HTTPException, with its headers."""
    response = error_response(error.status_code, error.detail)
    response.headers.update(error.headers or {})
    return response


async def not_ready(request: Request, error: Exception) -> Response:
    """Handle a NotReadyError for Starlette."""
    response = error_response(503, str(error), code="not_ready")
    response.headers["retry-after"] = str(RETRY_AFTER_S)
    return response


async def feedback_error(request: Request, error: Exception) -> Response:
    """Handle a FeedbackError for Starlette. Its message, which names hosts and paths, is in the log only."""
    request.scope[SCOPE_KEY].database_failed = True  # so that it does not count as a rejection
    _log.warn("feedback", str(error))
    advice = "nothing was stored, so send it again" if request.method == "POST" else "send it again"
    message = f"feedback: expected a database that answers, found none; {advice}"
    response = error_response(503, message, code="feedback_unavailable")
    response.headers["retry-after"] = str(RETRY_AFTER_S)
    return response


async def layout_error(request: Request, error: Exception) -> Response:
    """Handle a LayoutError for Starlette: a graph of the bundle has no valid result for this request."""
    _log.warn("bundle", f"{request.scope[SCOPE_KEY].bundle.label}: {error}")
    return error_response(500, INTERNAL_ERROR)


async def input_error(request: Request, error: Exception) -> Response:
    """Handle an InputError for Starlette."""
    if isinstance(error, RequestError):
        more = f"; {error.more:,} more are not shown" if error.more else ""
        return error_response(422, f"the request has wrong fields{more}", error.field_errors)
    if isinstance(error, UnknownTrackError):
        return error_response(404, str(error), [FieldError(error.path, "unknown track")], "unknown_track")
    raise error
