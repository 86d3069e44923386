"""The door of a real uvicorn on a real port, before an application that tells who is sent away by the path."""

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
from musix_runtime.serving.load_shedding import Door
from musix_runtime.settings import Settings

AWAY = b"POST /away HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody"
TAKEN = b"POST /taken HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody"


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse((await request.body()).decode())


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    app = Starlette(routes=[Route(path, echo, methods=["GET", "POST"]) for path in ("/away", "/taken")])
    app.state.connection_limiter = ConnectionLimiter(Settings(keep_alive_s=1, body_seconds=1), lambda reason: None)
    app.state.away = {b"/away": b"content-length: 4\r\nx: y\r\n\r\nfull"}.get
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=Door, proxy_headers=False, log_level="warning")
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
    """Status and body of so many answers, each body of four bytes."""
    data, found = b"", []
    while len(found) < count:
        head, _, rest = data.partition(b"\r\n\r\n")
        if len(rest) >= 4:
            found.append((int(head[9:12]), rest[:4]))
            data = rest[4:]
        else:
            more = connection.recv(65536)
            assert more, data
            data += more
    assert not data
    return found


def test_who_is_sent_away_has_the_whole_answer_and_keeps_the_connection(connection: socket.socket) -> None:
    connection.sendall(AWAY)
    head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    assert (status, body) == (b"HTTP/1.1 503 Service Unavailable", b"full")
    assert [each.partition(b":")[0] for each in headers] == [b"date", b"server", b"content-length", b"x"]
    connection.sendall(TAKEN)
    assert read(connection) == [(200, b"body")]


def test_a_body_that_comes_later_is_not_taken_for_a_request(connection: socket.socket) -> None:
    connection.sendall(AWAY[:-3])
    assert read(connection) == [(503, b"full")]
    connection.sendall(AWAY[-3:] + TAKEN)
    assert read(connection) == [(200, b"body")]


def test_requests_that_come_together_are_answered_in_their_order(connection: socket.socket) -> None:
    connection.sendall(AWAY + TAKEN + AWAY + TAKEN + AWAY)
    first, *others = read(connection, 5)
    assert first == (503, b"full")
    assert others == [(200, b"body")] * 4  # which came while another one was under way


@pytest.mark.parametrize(
    "request_",
    [
        AWAY.replace(b"POST", b"GET"),
        AWAY.replace(b"host", b"connection: close\r\nhost"),
        AWAY.replace(b"1.1", b"1.0"),
        AWAY.replace(b"/away", b"/away?x"),
    ],
    ids=["another method", "the last of its connection", "HTTP/1.0", "a query"],
)
def test_what_is_not_plain_goes_on_to_the_application(connection: socket.socket, request_: bytes) -> None:
    connection.sendall(request_)
    assert read(connection) == [(200, b"body")]


def test_who_waits_to_be_told_to_go_on_is_told_so(connection: socket.socket) -> None:
    connection.sendall(AWAY[:-4].replace(b"host", b"expect: 100-continue\r\nhost"))
    assert connection.recv(65536).startswith(b"HTTP/1.1 100")
    connection.sendall(b"body")
    assert read(connection) == [(200, b"body")]


def test_who_was_sent_away_and_says_no_more_is_disconnected(connection: socket.socket) -> None:
    connection.sendall(AWAY)
    assert read(connection) == [(503, b"full")]
    assert connection.recv(65536) == b""


def test_a_body_that_never_comes_or_comes_late_does_not_hold_the_connection_for_ever(
    connection: socket.socket, address: tuple[str, int]
) -> None:
    with socket.create_connection(address, timeout=20) as late:
        for each in (connection, late):
            each.sendall(AWAY[:-4])
            assert read(each) == [(503, b"full")]
        late.sendall(b"body")
        assert late.recv(65536) == b""
        assert connection.recv(65536) == b""
