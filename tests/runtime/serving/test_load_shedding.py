"""The load-shedding protocol in a real uvicorn on a real port; a stand-in rejecter decides by the path."""

import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from musix_runtime.serving.connection_limits import ConnectionLimiter
from musix_runtime.serving.load_shedding import LoadSheddingProtocol
from musix_runtime.settings import Settings

REJECTED = b"POST /rejected HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody"
ADMITTED = b"POST /admitted HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody"


class RejectByPath:
    def reject(self, path: bytes) -> bytes | None:
        return b"content-length: 4\r\nx: y\r\n\r\nfull" if path == b"/rejected" else None


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse((await request.body()).decode())


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    app = Starlette(routes=[Route(path, echo, methods=["GET", "POST"]) for path in ("/rejected", "/admitted")])
    app.state.connection_limiter = ConnectionLimiter(Settings(keep_alive_s=1, body_timeout_s=1), lambda reason: None)
    app.state.rejecter = RejectByPath()
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=LoadSheddingProtocol, proxy_headers=False, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def connection(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=20) as opened:
        yield opened


def read(connection: socket.socket, count: int = 1) -> list[tuple[int, bytes]]:
    """Return status and body of `count` responses, each with a body of four bytes."""
    data, result = b"", []
    while len(result) < count:
        head, _, rest = data.partition(b"\r\n\r\n")
        if len(rest) >= 4:
            result.append((int(head[9:12]), rest[:4]))
            data = rest[4:]
        else:
            more = connection.recv(65536)
            assert more, data
            data += more
    assert not data
    return result


def test_a_rejected_request_gets_a_whole_response_and_keeps_its_connection(connection: socket.socket) -> None:
    connection.sendall(REJECTED)
    head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    assert (status, body) == (b"HTTP/1.1 503 Service Unavailable", b"full")
    assert [item.partition(b":")[0] for item in headers] == [b"date", b"server", b"content-length", b"x"]
    connection.sendall(ADMITTED)
    assert read(connection) == [(200, b"body")]


def test_the_late_body_of_a_rejected_request_is_ignored(connection: socket.socket) -> None:
    connection.sendall(REJECTED[:-3])
    assert read(connection) == [(503, b"full")]
    connection.sendall(REJECTED[-3:] + ADMITTED)
    assert read(connection) == [(200, b"body")]


def test_pipelined_requests_are_answered_in_order(connection: socket.socket) -> None:
    connection.sendall(REJECTED + ADMITTED + REJECTED + ADMITTED + REJECTED)
    first, *others = read(connection, 5)
    assert first == (503, b"full")
    assert others == [(200, b"body")] * 4  # pipelined behind another request


@pytest.mark.parametrize(
    "request_",
    [
        REJECTED.replace(b"POST", b"GET"),
        REJECTED.replace(b"host", b"connection: close\r\nhost"),
        REJECTED.replace(b"1.1", b"1.0"),
        REJECTED.replace(b"/rejected", b"/rejected?x"),
    ],
    ids=["another method", "the last of its connection", "HTTP/1.0", "a query"],
)
def test_special_requests_go_to_the_application(connection: socket.socket, request_: bytes) -> None:
    connection.sendall(request_)
    assert read(connection) == [(200, b"body")]


def test_a_request_that_expects_100_continue_gets_it(connection: socket.socket) -> None:
    connection.sendall(REJECTED[:-4].replace(b"host", b"expect: 100-continue\r\nhost"))
    assert connection.recv(65536).startswith(b"HTTP/1.1 100")
    connection.sendall(b"body")
    assert read(connection) == [(200, b"body")]


def test_an_idle_connection_is_closed_after_a_rejection(connection: socket.socket) -> None:
    connection.sendall(REJECTED)
    assert read(connection) == [(503, b"full")]
    assert connection.recv(65536) == b""


def test_a_missing_or_late_body_does_not_hold_the_connection_forever(
    connection: socket.socket, address: tuple[str, int]
) -> None:
    with socket.create_connection(address, timeout=20) as late:
        for item in (connection, late):
            item.sendall(REJECTED[:-4])
            assert read(item) == [(503, b"full")]
        late.sendall(b"body")
        assert late.recv(65536) == b""
        assert connection.recv(65536) == b""
