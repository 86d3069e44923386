"""The limits on connections, with a real uvicorn on a real port and an application that answers or delays requests."""

import asyncio
import json
import logging
import resource
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from musix_runtime.serving.connection_limits import (
    REASONS,
    RESERVED_DESCRIPTORS,
    ConnectionLimiter,
    _network,
    fit_descriptors,
)
from musix_runtime.serving.load_shedding import LoadSheddingProtocol
from musix_runtime.serving.rejecter import Rejecter
from musix_runtime.serving.throttled_log import ThrottledLog
from musix_runtime.settings import Settings

CHUNKED = b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
GET = b"GET /echo HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"


class Server:
    """A running server. It opens connections to itself, and counts refusals."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self.refused: Counter[str] = Counter()
        self.release = threading.Event()
        self.limiter = ConnectionLimiter(settings, lambda reason: self.refused.update([reason]))
        self.stack = stack
        self.app = Starlette(
            routes=[
                Route("/echo", self.echo, methods=["GET", "POST"]),
                Route("/header", self.header, methods=["POST"]),
                Route("/hold", self.hold),
                Route("/large", self.large),
                Route("/refuse", self.refuse, methods=["POST"]),
            ]
        )
        self.app.state.rejecter = Rejecter([], None)
        self.app.state.connection_limiter = self.limiter
        self.listener = socket.create_server(("127.0.0.1", 0))

    async def echo(self, request: Request) -> PlainTextResponse:
        try:
            return PlainTextResponse(str(len(await request.body())))
        except ClientDisconnect:
            return PlainTextResponse("")

    async def header(self, request: Request) -> PlainTextResponse:
        await request.body()
        return PlainTextResponse(",".join(request.headers.getlist("x-secret")) or "none")

    async def hold(self, request: Request) -> PlainTextResponse:
        while not self.release.is_set():
            await asyncio.sleep(0.01)
        return PlainTextResponse("held")

    async def large(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse("a" * 10_000_000)

    async def refuse(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse("no text", 415)

    def connect(self, data: bytes = b"", **options: int) -> socket.socket:
        """Return a connection that has sent `data`."""
        opened = self.stack.enter_context(socket.socket())
        opened.settimeout(20)
        for name, value in options.items():
            opened.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        opened.connect(self.listener.getsockname())
        opened.sendall(data)
        return opened


@contextmanager
def serve(loop: str = "auto", **settings: object) -> Iterator[Server]:
    with ExitStack() as stack:
        server = Server(Settings(**settings), stack)  # type: ignore[arg-type]
        config = uvicorn.Config(
            server.app,
            http=LoadSheddingProtocol,
            loop=loop,  # type: ignore[arg-type]
            ws="none",
            proxy_headers=False,
            log_level="warning",
            log_config=None,
        )  # with uvicorn's own log_config its records would not reach caplog
        uvicorn_server = uvicorn.Server(config)
        thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [server.listener]}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.release.set()
            stack.close()
            uvicorn_server.should_exit = True
            thread.join(20)


def read(connection: socket.socket) -> tuple[int, str]:
    """Return status and body of a response."""
    data = b""
    while True:
        head, result, rest = data.partition(b"\r\n\r\n")
        if result and len(rest) >= int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return int(head[9:12]), rest.decode()
        more = connection.recv(65536)
        assert more, data
        data += more


def closed(connection: socket.socket) -> bool:
    """Return whether the server closes the connection, after any data. Fails after 20 s."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def refusal(connection: socket.socket, data: bytes) -> tuple[int, str]:
    """Return status and error code of the response to refused data. The connection must be closed after it."""
    with suppress(ConnectionError):
        connection.sendall(data)
    status, body = read(connection)
    assert closed(connection)
    return status, json.loads(body)["error"]["code"]


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 102, 431, "head_size"),
        (b"GET / HTTP/1.1\r\na: " + b"b" * 70_000 + b"\r\n\r\n", 431, "head_size"),
        (b"GET / HTTP/1.1\r\na: " + b"b" * 2_000_000, 431, "head_size"),
        (CHUNKED + b"0\r\n" + b"a: b\r\n" * 102, 431, "head_size"),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n", 414, "url_size"),
        (b"GET /" + b"a" * 2_000_000, 414, "url_size"),
        (b"HELLO\r\n\r\n", 400, "invalid"),
    ],
)  # fmt: skip
def test_a_head_beyond_the_limits_is_refused(data: bytes, status: int, reason: str) -> None:
    with serve() as server:
        assert refusal(server.connect(), data) == (status, REASONS[reason].code)
        assert server.refused[reason] == 1
        assert read(server.connect(GET)) == (200, "0")


def test_large_head_within_the_limits_is_accepted_in_any_parts() -> None:
    request = GET.replace(b"host: x", b"host: x\r\na: " + b"b" * 40_000)
    with serve() as server:
        connection = server.connect()
        for start in (0, 3, 30, 20_000, 40_000):
            connection.sendall(request[start : {0: 3, 3: 30, 30: 20_000, 20_000: 40_000}.get(start)])
        assert read(connection) == (200, "0")
        connection.sendall(request + request[:30_000])
        assert read(connection) == (200, "0")
        connection.sendall(request[30_000:])
        assert read(connection) == (200, "0")
        assert not server.refused


@pytest.mark.parametrize("start", [b"", b"GET /", b"GET / HTTP/1.1\r\nhost", b"\r\n\r\n"])
def test_unfinished_head_is_closed_even_if_bytes_arrive(start: bytes) -> None:
    with serve(head_timeout_s=0.5) as server:
        slow, other = server.connect(start), server.connect()
        if start:
            other.sendall(start)
            threading.Thread(target=_trickle, args=(other, start[-1:]), daemon=True).start()
        assert closed(slow)
        assert closed(other)
        assert server.refused == {"head_time": 2}


def _trickle(connection: socket.socket, data: bytes) -> None:
    stop = threading.Event()
    while not stop.wait(0.05):
        try:
            connection.sendall(data)
        except OSError:
            return


def test_unfinished_body_is_closed_before_and_after_the_response() -> None:
    with serve(body_timeout_s=0.5) as server:
        body = server.connect(POST % 10 + b"abc")
        assert read(body)[0] == 408
        answered = server.connect(POST.replace(b"/echo", b"/nothing") % 10 + b"abc")
        assert read(answered)[0] == 404
        assert closed(body)
        assert closed(answered)
        assert server.refused == {"body_time": 2}


def test_rest_of_an_answered_body_is_discarded_within_the_limit() -> None:
    request = POST.replace(b"/echo", b"/nothing") % 100_000
    with serve(max_body_bytes=150_000) as server:
        connection = server.connect(request + b"a")
        assert read(connection)[0] == 404
        connection.sendall(b"a" * 99_999 + GET)
        assert read(connection) == (200, "0")
        connection = server.connect(request.replace(b"100000", b"900000"))
        assert read(connection)[0] == 404
        with suppress(ConnectionError):
            connection.sendall(b"a" * 899_000)
        assert closed(connection)
        assert server.refused == {"body_size": 1}


def test_closing_an_idle_connection_is_not_a_refusal() -> None:
    with serve(keep_alive_s=0.5) as server:
        connection = server.connect(GET)
        assert read(connection) == (200, "0")
        assert closed(connection)
        assert not server.refused


def test_new_connection_evicts_the_one_that_waited_longest() -> None:
    with serve(max_connections=4) as server:
        idle = server.connect(GET)
        assert read(idle) == (200, "0")
        held = server.connect(GET.replace(b"echo", b"hold"))
        silent, unfinished = server.connect(), server.connect(GET[:10])
        for oldest in (silent, unfinished, idle):  # those that never sent a whole request first
            assert read(server.connect(GET)) == (200, "0")
            if oldest is not idle:
                assert closed(oldest)
        for _ in range(5):
            assert read(server.connect(GET)) == (200, "0")
        assert closed(idle)
        server.release.set()
        assert read(held) == (200, "held")
        assert set(server.refused) == {"evicted"}


def test_a_connection_is_refused_when_all_others_are_being_answered() -> None:
    with serve(max_connections=2) as server:
        held = [server.connect(GET.replace(b"echo", b"hold")) for _ in range(2)]
        assert refusal(server.connect(), b"") == (503, "busy")
        server.release.set()
        assert [read(item) for item in held] == [(200, "held")] * 2
        assert server.refused == {"connections": 1}


def test_connections_of_one_address_are_limited_by_setting() -> None:
    with serve(max_connections_per_address=2) as server:
        first, _ = server.connect(GET), server.connect(GET)
        assert read(first) == (200, "0")
        assert refusal(server.connect(), b"") == (503, "busy")
        assert server.refused == {"address": 1}
        first.shutdown(socket.SHUT_RDWR)
        assert closed(first)
        assert read(server.connect(GET)) == (200, "0")


def test_ipv6_networks_count_as_one_address() -> None:
    assert _network("192.0.2.1") == _network("::ffff:192.0.2.1") == "192.0.2.1"
    assert _network("2001:db8::1") == _network("2001:db8::ffff:2") != _network("2001:db8:0:1::1")


def test_buffered_bytes_are_limited_without_refusing_small_requests() -> None:
    with serve(max_bodies_bytes=1_000_000) as server:
        oldest = server.connect(POST % 600_001 + b"a" * 600_000)
        assert read(server.connect(POST % 10_000 + b"a" * 10_000)) == (200, "10000")
        newest = server.connect(POST % 600_001 + b"a" * 600_000)
        assert read(oldest)[0] == 503
        assert closed(oldest)
        assert read(server.connect(POST % 10_000 + b"a" * 10_000)) == (200, "10000")
        newest.sendall(b"a")
        assert read(newest) == (200, "600001")
        for _ in range(5):  # what was answered counts no more
            newest.sendall(POST % 900_000 + b"a" * 900_000)
            assert read(newest) == (200, "900000")
        assert server.refused == {"buffered": 1}


def test_body_above_the_limit_of_all_bodies_is_refused() -> None:
    with serve(max_bodies_bytes=500_000) as server:
        assert refusal(server.connect(), POST % 600_000 + b"a" * 600_000) == (503, "busy")
        assert server.refused == {"buffered": 1}


def test_connection_of_a_client_that_does_not_read_is_closed() -> None:
    with serve(send_timeout_s=0.5) as server:
        connection = server.connect(GET.replace(b"echo", b"large"), SO_RCVBUF=4096)
        while not server.refused:
            pass
        assert closed(connection)
        assert server.refused == {"send_time": 1}


def test_closing_a_client_that_does_not_read_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """The requests that wait behind the response are dropped, and not answered into a closed connection."""
    with serve(send_timeout_s=0.5) as server:
        connection = server.connect(GET.replace(b"echo", b"large") * 8, SO_RCVBUF=4096)
        while not server.refused:
            pass
        assert closed(connection)
    assert [item.message for item in caplog.records if item.levelno >= logging.ERROR] == []


def test_pipelined_requests_are_answered_in_order_and_too_many_close_the_connection() -> None:
    with serve() as server:
        connection = server.connect(b"".join(POST % i + b"a" * i for i in range(100)))
        answers = b""
        try:
            while more := connection.recv(65536):
                answers += more
        except ConnectionError:
            pass
        assert [item.rpartition(b"\r\n")[2] for item in answers.split(b"HTTP/1.1 ")[1:]] == [
            b"%d" % i for i in range(16)
        ]
        assert server.refused == {"pipelining": 1}


def test_repeated_refusals_write_one_line_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with serve() as server:
        for _ in range(20):
            refusal(server.connect(), b"HELLO\r\n\r\n")
    assert [item.message for item in caplog.records] == [
        "connection refused (invalid): request: expected HTTP/1.1, found a head or body that breaks its rules"
    ]


def test_throttled_log_counts_skipped_warnings(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ThrottledLog(logging.getLogger("attack"))
    for _ in range(3):
        log.warn("a", "an a")
    log.warn("b", "a b")
    monkeypatch.setattr("musix_runtime.serving.throttled_log.INTERVAL_S", 0)
    log._next["a"] = 0
    log.warn("a", "an a")
    assert [item.message for item in caplog.records] == ["an a", "a b", "an a (3 times since the last such line)"]


def test_closed_connections_leave_no_state() -> None:
    with serve(head_timeout_s=0.5, body_timeout_s=0.5, keep_alive_s=0.5, send_timeout_s=0.5) as server:
        starts = (b"", GET, GET[:9], POST % 9, POST % 99_999 + b"a" * 50_000, b"HELLO\r\n\r\n", GET * 40)
        every = [server.connect(item) for item in starts for _ in range(5)]
        assert all(closed(item) for item in every)
        limiter = server.limiter
        phases = (limiter.heads, limiter.bodies, limiter.stalled, limiter.idle, limiter.lingering, limiter.closing)
        while limiter._timer is not None:  # which ends with the last connection
            pass
        assert not any(phases)
        assert (limiter._open, limiter._addresses, limiter._buffers, limiter._buffered) == ({}, {}, {}, 0)


def test_connections_are_never_more_than_the_process_can_hold() -> None:
    command = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (300, int(sys.argv[1])))\n"
    command += (
        "from musix_runtime.settings import Settings\nfrom musix_runtime.serving import connection_limits as limits\n"
    )
    command += "print(limits.fit_descriptors(Settings(max_connections=1000)))"
    for hard, fitting in ((500, 500 - RESERVED_DESCRIPTORS), (2000, 1000)):
        done = subprocess.run([sys.executable, "-c", command, str(hard)], capture_output=True, text=True, check=True)
        assert int(done.stdout) == fitting
        assert ("MUSIX_MAX_CONNECTIONS: expected at most 372" in done.stderr) == (hard == 500)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert fit_descriptors(Settings(max_connections=10)) == 10
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
