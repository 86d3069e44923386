"""HTTP/1.1 client for this machine, in a closed loop or on a schedule, with little overhead of its own.

In the loop each connection sends its next request when the answer to the last one is complete; a schedule does not wait
for answers. Some 15 us a request on one core.
"""

import gc
import select
import socket
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

FAILED = 0  # the status of a request whose connection broke before the response was complete
TIMEOUT_S = 60.0  # for one response
CHUNK = 1 << 18


@dataclass(frozen=True)
class Load:
    """Results of `count` requests, in the order in which they were sent."""

    latencies: NDArray[np.float64]  # microseconds from the first byte sent to the last byte read
    statuses: NDArray[np.int16]  # HTTP status, or FAILED
    seconds: float  # from the first request to the last response
    answers: dict[int, bytes]  # bodies of responses, by the number of the request

    def percentile(self, percent: float) -> float:
        """Return the percentile of the latencies in milliseconds, of requests with any status."""
        return float(np.percentile(self.latencies, percent)) / 1000

    @property
    def throughput(self) -> float:
        """Requests per second with status 200."""
        return int((self.statuses == 200).sum()) / self.seconds

    def counts(self) -> dict[int, int]:
        """Return the number of requests with each status."""
        return dict(sorted(Counter(self.statuses.tolist()).items()))


def post(path: str, body: object) -> bytes:
    """Return the bytes of a POST request with `body` as JSON."""
    content = msgspec.json.encode(body)
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(content)}"
    )
    return head.encode() + b"\r\n\r\n" + content


def get(path: str) -> bytes:
    """Return the bytes of a GET request."""
    return f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()


def ask(url: str, request: bytes, timeout: float = TIMEOUT_S) -> tuple[int, bytes]:
    """Return status and body of one request on a new connection. Raises OSError without a response in time."""
    with socket.create_connection(_address(url), timeout) as opened:
        opened.sendall(request)
        answer = _Answer()
        while not answer.add(opened.recv(CHUNK)):
            pass
        return answer.status, answer.body


def run(
    url: str,
    requests: Sequence[bytes],
    connections: int,
    count: int,
    *,
    keep: int = 0,
    seconds: float = 60.0,
) -> Load:
    """Send `count` requests over `connections` connections. Request number i is `requests[i % len(requests)]`.

    The bodies of the first `keep` are kept. After `seconds` nothing more is sent, so there may be fewer than `count`.
    Raises TimeoutError when no answer at all comes for a minute, OSError when the server cannot be connected to.
    """
    loop = _Loop(_address(url), requests, min(connections, count), count, keep, seconds)
    gc.disable()  # a garbage collection here would look like a slow response
    try:
        return loop.run()
    finally:
        gc.enable()
        loop.close()


def run_at(url: str, requests: Sequence[bytes], connections: int, count: int, rate: float) -> Load:
    """Send `count` requests on a schedule of `rate` per second. Otherwise like `run`.

    Latencies count from when a request was due: that it waits for a free connection is part of it.
    """
    loop = _Schedule(_address(url), requests, connections, count, 0, 0.0, rate=rate)
    gc.disable()
    try:
        return loop.run()
    finally:
        gc.enable()
        loop.close()


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if not parts.hostname or not parts.port:
        raise ValueError(f"expected http://HOST:PORT, found {url!r}")
    return parts.hostname, parts.port


class _Answer:
    """A parser of one HTTP/1.1 response."""

    __slots__ = ("_data", "_start", "_stop", "closing", "status")

    def __init__(self) -> None:
        self._data = b""
        self._start = self._stop = 0
        self.status = FAILED
        self.closing = False

    def add(self, data: bytes) -> bool:
        """Add bytes and return whether the response is complete. Raises ConnectionError if it ends early."""
        if not data:
            raise ConnectionError("the server closed the connection before its answer was whole")
        self._data = self._data + data if self._data else data
        if not self._stop:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return False
            self._read_head(self._data[:end].lower())
            self._start = end + 4
            self._stop += self._start
        return len(self._data) >= self._stop

    def _read_head(self, head: bytes) -> None:
        _, separator, length = head.partition(b"\r\ncontent-length:")
        if not separator:
            raise ValueError(f"expected an answer with content-length, found {head!r}")
        self.status = int(head[9:12])
        self._stop = int(length.partition(b"\r\n")[0])
        self.closing = b"\r\nconnection: close" in head

    @property
    def body(self) -> bytes:
        return self._data[self._start : self._stop]


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    number: int = -1  # of the current request
    start: float = 0.0
    answer: _Answer = field(default_factory=_Answer)


class _Loop:
    def __init__(
        self,
        address: tuple[str, int],
        requests: Sequence[bytes],
        connections: int,
        count: int,
        keep: int,
        seconds: float,
    ) -> None:
        self.address, self.requests, self.count, self.keep, self.seconds = address, requests, count, keep, seconds
        self.latencies = np.zeros(count)
        self.statuses = np.zeros(count, np.int16)
        self.answers: dict[int, bytes] = {}
        self.sent = 0
        self.poll = select.epoll()
        self.open: dict[int, _Connection] = {}
        for _ in range(connections):
            self._connect()

    def run(self) -> Load:
        begun = perf_counter()
        self.end = begun + self.seconds
        under_way = sum(self._send(item) for item in list(self.open.values()))
        while under_way:
            ready = self.poll.poll(TIMEOUT_S)
            if not ready:
                raise TimeoutError(f"{under_way} requests sent, no response for {TIMEOUT_S:.0f} s")
            for number, _ in ready:
                connection = self.open[number]
                if connection.number < 0:
                    self._disconnect(connection)  # idle, and closed by the server
                elif self._receive(connection):
                    under_way -= 1 - self._send(connection)
        last = perf_counter() - begun
        return Load(self.latencies[: self.sent], self.statuses[: self.sent], last, self.answers)

    def _may_send(self) -> bool:
        return perf_counter() < self.end

    def _due(self) -> float:
        """Return the start of the latency of the next request."""
        return perf_counter()

    def close(self) -> None:
        for item in self.open.values():
            item.socket.close()
        self.poll.close()

    def _connect(self) -> _Connection:
        opened = socket.create_connection(self.address, TIMEOUT_S)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(opened)
        self.open[opened.fileno()] = connection
        self.poll.register(opened, select.EPOLLIN)
        return connection

    def _send(self, connection: _Connection) -> bool:
        """Send the next request, on a new connection if the last one is closed. Return whether there was one."""
        if self.sent >= self.count or not self._may_send():
            return False
        if connection.socket.fileno() < 0:
            connection = self._connect()
        connection.number = self.sent
        connection.answer = _Answer()
        connection.start = self._due()
        self.sent += 1
        with suppress(ConnectionError):  # the following read shows whether it was sent
            connection.socket.sendall(self.requests[connection.number % len(self.requests)])
        return True

    def _receive(self, connection: _Connection) -> bool:
        """Read the received bytes. Return whether the request has ended, with a response or an error."""
        answer, number = connection.answer, connection.number
        try:
            if not answer.add(connection.socket.recv(CHUNK)):
                return False
        except ConnectionError:
            answer.status, answer.closing = FAILED, True
        self.latencies[number] = (perf_counter() - connection.start) * 1e6
        self.statuses[number] = answer.status
        if number < self.keep:
            self.answers[number] = answer.body
        connection.number = -1
        if answer.closing:
            self._disconnect(connection)
        return True

    def _disconnect(self, connection: _Connection) -> None:
        self.poll.unregister(connection.socket)
        del self.open[connection.socket.fileno()]
        connection.socket.close()


class _Schedule(_Loop):
    def __init__(self, *arguments: Any, rate: float) -> None:
        super().__init__(*arguments)
        self.rate = rate

    def run(self) -> Load:
        self.begun, done, free = perf_counter(), 0, deque(self.open.values())
        while done < self.count:
            while free and self._send(free[0]):
                free.popleft()
            waiting = self.sent < self.count and free
            ready = self.poll.poll(max(self._due() - perf_counter(), 0) if waiting else TIMEOUT_S)
            if not ready and not waiting:
                raise TimeoutError(f"{self.sent - done} requests sent, no response for {TIMEOUT_S:.0f} s")
            for number, _ in ready:
                connection = self.open[number]
                if connection.number < 0:
                    self._disconnect(connection)  # idle, and closed by the server; it is replaced for its next request
                elif self._receive(connection):
                    done += 1
                    free.append(connection)
        return Load(self.latencies, self.statuses, perf_counter() - self.begun, self.answers)

    def _may_send(self) -> bool:
        return perf_counter() >= self._due()

    def _due(self) -> float:
        return self.begun + self.sent / self.rate
