"""The reasons why a connection is refused, and the response to each."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from musix_runtime.serving.responses import error_response

RETRY_AFTER_S = 1


@dataclass(frozen=True)
class Reason:
    """Why a connection is refused: its response, and the setting of the limit, if there is one."""

    status: int
    code: str
    message: str
    setting: str = ""


REASONS = {
    "connections": Reason(
        503, "busy", "connection: expected fewer at a time, found the maximum number", "MUSIX_MAX_CONNECTIONS"
    ),
    "evicted": Reason(
        503, "busy", "request: expected the rest of it, found other connections waiting", "MUSIX_MAX_CONNECTIONS"
    ),
    "address": Reason(
        503,
        "busy",
        "connection: expected fewer from one address, found the maximum number",
        "MUSIX_MAX_CONNECTIONS_PER_ADDRESS",
    ),
    "head_size": Reason(431, "head_too_large", "head: expected fewer bytes or headers", "MUSIX_MAX_HEAD_BYTES"),
    "url_size": Reason(414, "url_too_long", "URL: expected at most 8 KiB, found more"),
    "url": Reason(400, "bad_request", "URL: expected a path such as /ready, found something else"),
    "head_time": Reason(408, "timed_out", "head: expected all of it sooner", "MUSIX_HEAD_TIMEOUT_S"),
    "body_time": Reason(408, "timed_out", "body: expected all of it sooner", "MUSIX_BODY_TIMEOUT_S"),
    "body_size": Reason(413, "body_too_large", "body: expected fewer bytes", "MUSIX_MAX_BODY_BYTES"),
    "chunks": Reason(400, "bad_request", "body: expected at most 8,192 chunks, found more"),
    "buffered": Reason(
        503, "busy", "body: expected fewer bytes at a time, found the maximum number", "MUSIX_MAX_BODIES_BYTES"
    ),
    "send_time": Reason(408, "timed_out", "response: expected the client to read it", "MUSIX_SEND_TIMEOUT_S"),
    "pipelining": Reason(400, "bad_request", "request: expected fewer before the response to the first"),
    "invalid": Reason(400, "bad_request", "request: expected HTTP/1.1, found a head or body that breaks its rules"),
}


def refusal(reason: str, default_headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the whole HTTP/1.1 response to a refused request. It closes the connection."""
    status = REASONS[reason].status
    response = error_response(status, REASONS[reason].message, code=REASONS[reason].code)
    retry = [(b"retry-after", b"%d" % RETRY_AFTER_S)] if status == 503 else []
    headers = [*default_headers, *response.raw_headers, *retry, (b"connection", b"close")]
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    status_line = b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())
    return status_line + lines + b"\r\n" + bytes(response.body)
