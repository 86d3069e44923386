"""The load client: prebuilt HTTP requests over keep-alive connections, closed loop or on a schedule, one process.

It parses no more of an answer than its status and length, so that the server and not the client is measured: a request
costs it some 20 microseconds.
"""

import selectors
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

HOST = "127.0.0.1"
QUIET = 30.0  # seconds without any answer after which a run fails


@dataclass(frozen=True)
class Load:
    """What a run of requests saw, in the order of the answers: when each was sent and answered, with which status."""

    sent: NDArray[np.float64]  # seconds; on a schedule: when it was due
    answered: NDArray[np.float64]
    statuses: NDArray[np.int64]
    bodies: dict[int, bytes] = field(repr=False)  # of the requests to keep, by their number

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return len(self.sent) / float(self.answered.max() - self.sent.min())

    def ms(self, percent: float, status: int = 200) -> float:
        """Percentile of the time to answer, in ms, of the requests with this status; NaN when there are none."""
        times = (self.answered - self.sent)[self.statuses == status]
        return float(np.percentile(times, percent) * 1000) if len(times) else float("nan")


def post(path: str, body: bytes) -> bytes:
    """A POST of JSON as the bytes that go over the wire."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def get(path: str) -> bytes:
    """A GET as the bytes that go over the wire."""
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


def run(port: int, requests: Sequence[bytes], connections: int, keep: int = 0) -> Load:
    """Send all `requests`, in order, each as soon as one of the connections is free. Bodies of the first `keep` are kept.

    Raises ConnectionError or TimeoutError when the server stops answering.
    """
    return _Run(port, requests, connections, keep).closed()


def run_at(port: int, requests: Sequence[bytes], connections: int, rate: float) -> Load:
    """Send `requests` on a schedule, `rate` a second, whatever the server does; all connections busy, one waits here.

    Times count from when a request was due, so that waiting for a free connection is part of them.
    """
    return _Run(port, requests, connections, 0).scheduled(rate)


class _Connection:
    """One keep-alive connection with at most one request under way."""

    __slots__ = ("buffer", "due", "number", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.number = -1
        self.due = 0.0

    def send(self, number: int, request: bytes, due: float) -> None:
        self.number, self.due, self.buffer = number, due, b""
        self.socket.sendall(request)

    def receive(self) -> tuple[int, bytes] | None:
        """Status and body, once the whole answer is there."""
        data = self.socket.recv(262_144)
        if not data:
            raise ConnectionError(f"request {self.number}: the server closed the connection")
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self.buffer[:end].lower()
        at = head.find(b"content-length:")
        if at < 0:
            raise ConnectionError(f"request {self.number}: expected a content-length, found {head!r}")
        size = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self.buffer) < end + 4 + size:
            return None
        return int(head[9:12]), self.buffer[end + 4 :]


class _Run:
    def __init__(self, port: int, requests: Sequence[bytes], connections: int, keep: int) -> None:
        self.requests, self.keep = requests, keep
        self.open = [_Connection(port) for _ in range(connections)]
        self.selector = selectors.DefaultSelector()
        for each in self.open:
            self.selector.register(each.socket, selectors.EVENT_READ, each)
        self.seen: list[tuple[float, float, int]] = []
        self.bodies: dict[int, bytes] = {}

    def closed(self) -> Load:
        waiting = iter(range(len(self.requests)))
        for each in self.open:
            self._next(each, waiting)
        while len(self.seen) < len(self.requests):
            for free in self._answered(QUIET):
                self._next(free, waiting)
        return self._done()

    def scheduled(self, rate: float) -> Load:
        start, number, free = perf_counter(), 0, deque(self.open)
        while len(self.seen) < len(self.requests):
            now = perf_counter()
            while free and number < len(self.requests) and start + number / rate <= now:
                free.popleft().send(number, self.requests[number], start + number / rate)
                number += 1
            later = start + number / rate - now if free and number < len(self.requests) else QUIET
            free.extend(self._answered(max(later, 0.0)))
            if now - start > len(self.requests) / rate + QUIET:
                raise TimeoutError(f"expected {len(self.requests)} answers, found {len(self.seen)}")
        return self._done()

    def _next(self, connection: _Connection, waiting: Iterator[int]) -> None:
        number = next(waiting, None)
        if number is not None:
            connection.send(number, self.requests[number], perf_counter())

    def _answered(self, seconds: float) -> list[_Connection]:
        """The connections that got their answers within so many seconds."""
        ready = self.selector.select(seconds)
        if not ready and seconds >= QUIET:
            raise TimeoutError(f"expected an answer within {QUIET:.0f} s, found none")
        free = []
        for key, _ in ready:
            connection: _Connection = key.data
            found = connection.receive()
            if found is not None:
                self.seen.append((connection.due, perf_counter(), found[0]))
                if connection.number < self.keep:
                    self.bodies[connection.number] = found[1]
                free.append(connection)
        return free

    def _done(self) -> Load:
        self.selector.close()
        for each in self.open:
            each.socket.close()
        sent, answered, statuses = (np.array(each) for each in zip(*self.seen, strict=True))
        return Load(sent, answered, statuses.astype(np.int64), self.bodies)
