"""Requests of HTTP/1.1 that few clients send, with a real uvicorn on a real port."""

import json
import socket

import pytest

from tests.runtime.serving.test_connection_limits import CHUNKED, GET, POST, Server, closed, read, serve

UPGRADES = {
    "h2c": b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\nhost",
    "websocket": b"connection: upgrade\r\nupgrade: websocket\r\nhost",
    "twice": b"Upgrade: h2c\r\nConnection: upgrade\r\nUPGRADE: websocket\r\nx-empty:\r\nhost",
}


@pytest.mark.parametrize("headers", UPGRADES.values(), ids=UPGRADES)
def test_a_request_with_an_upgrade_header_is_answered_as_without_it(
    headers: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with serve() as server:
        connection = server.connect()
        for request, body in (
            (POST % 4 + b"body", "4"),
            (GET, "0"),
            (CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", "3"),
        ):
            connection.sendall(request.replace(b"host", headers))
            assert read(connection) == (200, body)
        connection.sendall(POST.replace(b"host", b"connection: close\r\n" + headers) % 4 + b"body")
        assert read(connection) == (200, "4")
        assert closed(connection)
        assert not server.refused
    assert not caplog.records


def test_a_trailer_is_no_header() -> None:
    """A proxy that checks headers does not see trailers: RFC 9110, section 6.5.1."""
    with serve() as server:
        head = CHUNKED.replace(b"/echo", b"/header")
        connection = server.connect(head + b"0\r\nx-secret: trailer\r\n\r\n")
        assert read(connection) == (200, "none")
        connection.sendall(head.replace(b"host", b"x-secret: header\r\nhost") + b"0\r\nx-secret: trailer\r\n\r\n")
        assert read(connection) == (200, "header")


def test_a_body_may_have_many_small_chunks() -> None:
    """However they are read: a limit for each read would refuse some of them by chance."""
    with serve() as server:
        connection = server.connect()
        for _ in range(2):
            connection.sendall(CHUNKED + b"1\r\na\r\n" * 8192 + b"0\r\n\r\n")
            assert read(connection) == (200, "8192")
        assert not server.refused
        assert refusal(server, CHUNKED + b"1\r\na\r\n" * 8193)[0] == 400
        assert server.refused == {"chunks": 1}


def test_an_upgrade_header_in_pieces_and_among_pipelined_requests() -> None:
    with serve() as server:
        request = POST.replace(b"host", UPGRADES["h2c"]) % 4 + b"body"
        for position in range(1, len(request), 7):
            connection = server.connect(request[:position])
            connection.sendall(request[position:] + request[:position])
            assert read(connection) == (200, "4")
            connection.sendall(request[position:])
            assert read(connection) == (200, "4")
        connection = server.connect(request * 16)
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 16:
            answers += connection.recv(65536)
        assert not server.refused


def test_the_limits_hold_for_requests_with_an_upgrade_header() -> None:
    with serve(max_head_bytes=1000) as server:
        assert refusal(server, GET.replace(b"host", UPGRADES["h2c"] + b": " + b"a" * 1000))[0] == 431
        assert server.refused == {"head_size": 1}
        connection = server.connect(GET.replace(b"host", UPGRADES["h2c"]) * 17)
        assert closed(connection)
        assert server.refused == {"head_size": 1, "pipelining": 1}


@pytest.mark.parametrize(
    "request_",
    [
        b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
        b"CONNECT /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody",
        b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET http://x HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET http://x?a=b HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET http://x:port/echo HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET http:///echo HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST http://[ HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        GET.replace(b"/echo", b"http://[").replace(b"host", UPGRADES["h2c"]),
    ],
)
def test_a_url_without_a_path_is_refused_with_an_answer(request_: bytes) -> None:
    with serve() as server:
        status, body = refusal(server, request_)
        assert status == 400
        error = json.loads(body)["error"]
        assert error["code"] == "bad_request"
        assert error["message"].startswith(("URL: expected a path", "request: expected HTTP/1.1"))
        connection = server.connect(GET)
        assert read(connection) == (200, "0")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_client_that_has_closed_its_side_is_answered(loop: str) -> None:
    """RFC 9112, section 9.6: it may have sent all that it had."""
    post = POST % 4 + b"body"
    with serve(loop=loop) as server:
        for requests, count in ((GET, 1), (post, 1), (post * 16, 16), (post + GET[:-1], 1)):
            connection = server.connect(requests)
            connection.shutdown(socket.SHUT_WR)
            assert everything(connection).count(b"HTTP/1.1 200") == count
        held = server.connect(GET.replace(b"/echo", b"/hold"))
        held.shutdown(socket.SHUT_WR)
        server.release.set()
        assert read(held) == (200, "held")
        for request in (post[:-1], GET[:-1], b""):  # not whole
            connection = server.connect(request)
            connection.shutdown(socket.SHUT_WR)
            assert everything(connection) == b""


def everything(connection: socket.socket) -> bytes:
    """Return what the server sends until it closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def refusal(server: Server, request: bytes) -> tuple[int, str]:
    """Return status and body of the response after which the connection is closed."""
    connection = server.connect(request)
    response = read(connection)
    assert closed(connection)
    return response


ODD = {  # what may follow a whole request, and the status and reason of its refusal
    "garbage": (b"\x00garbage\r\n\r\n", 400, "invalid"),
    "large head": (GET.replace(b"host", b"a" * 70_000), 431, "head_size"),
    "long url": (GET.replace(b"echo", b"a" * 9_000), 414, "url_size"),
    "no path": (GET.replace(b"/echo", b"http://x"), 400, "url"),
    "wrong chunk": (CHUNKED + b"1\r\na\r\nx", 400, "invalid"),
    "wrong chunk of an upgrade": (CHUNKED.replace(b"host", UPGRADES["h2c"]) + b"1\r\na\r\nx", 400, "invalid"),
}


@pytest.mark.parametrize("half", [False, True], ids=["open", "half closed"])
@pytest.mark.parametrize(("odd", "status", "reason"), ODD.values(), ids=ODD)
def test_whole_requests_are_answered_before_what_follows_is_refused(
    odd: bytes, status: int, reason: str, half: bool
) -> None:
    """RFC 9112, section 9.3.2: answers come in the order of the requests."""
    post = POST % 4 + b"body"
    with serve() as server:
        for whole, bodies in ((GET, [b"0"]), (post * 3 + GET, [b"4"] * 3 + [b"0"])):
            connection = server.connect(whole + odd)
            if half:
                connection.shutdown(socket.SHUT_WR)
            *answers, last = everything(connection).split(b"HTTP/1.1 ")[1:]
            assert [(answer[:3], answer.rpartition(b"\r\n")[2]) for answer in answers] == [
                (b"200", body) for body in bodies
            ]
            assert last.startswith(b"%d " % status)
            assert b"\r\nconnection: close\r\n" in last
        assert server.refused == {reason: 2}


@pytest.mark.parametrize("half", [False, True], ids=["open", "half closed"])
def test_what_is_refused_while_a_request_is_under_way_waits_for_its_answer(half: bool) -> None:
    with serve() as server:
        connection = server.connect(GET.replace(b"/echo", b"/hold"))
        other = server.connect(GET)
        assert read(other) == (200, "0")
        connection.sendall(b"\x00garbage\r\n\r\n")
        if half:
            connection.shutdown(socket.SHUT_WR)
        other.sendall(GET)
        assert read(other) == (200, "0")
        server.release.set()
        answers = everything(connection)
        assert [answer[:3] for answer in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]


def test_a_last_request_has_the_last_answer() -> None:
    """After `connection: close` the server reads nothing: RFC 9112, section 9.6."""
    with serve() as server:
        connection = server.connect(GET.replace(b"host", b"connection: close\r\nhost") + b"\x00garbage\r\n\r\n")
        assert everything(connection).count(b"HTTP/1.1 ") == 1
        assert not server.refused


EXPECT = (POST % 4).replace(b"host", b"expect: 100-continue\r\nhost")


@pytest.mark.parametrize(("path", "status"), [(b"/nothing", 404), (b"/large", 405), (b"/refuse", 415)])
def test_an_answer_before_the_expected_body_closes_the_connection(path: bytes, status: int) -> None:
    """RFC 9110, section 10.1.1: the client sends no body then, so the next request would be read as the body."""
    with serve() as server:
        connection = server.connect(EXPECT.replace(b"/echo", path))
        answer = everything(connection)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"\r\nconnection: close\r\n" in answer
        connection = server.connect(EXPECT.replace(b"/echo", path) + b"body")  # it did not wait
        assert read(connection)[0] == status
        connection.sendall(GET)
        assert read(connection) == (200, "0")
        connection = server.connect(EXPECT.replace(b"/echo", path).replace(b"100-continue", b"else"))
        assert read(connection)[0] == status
        connection.sendall(b"body" + GET)
        assert read(connection) == (200, "0")


def test_an_expected_body_is_asked_for_and_the_connection_stays_open() -> None:
    with serve() as server:
        connection = server.connect()
        for _ in range(2):
            connection.sendall(EXPECT)
            assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(b"body")
            assert read(connection) == (200, "4")
