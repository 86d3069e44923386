"""Types of attacks, and their connections, all to 127.0.0.1."""

import selectors
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

HOST = "127.0.0.1"
POST = b"POST /api/ml/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@dataclass
class Sent:
    """The result of an attack: opened connections, sent bytes, and connections that the server has not closed."""

    connections: int = 0
    size: int = 0
    left_open: int = 0


@dataclass(frozen=True)
class Attack:
    """A named attack. `run(port, seconds)` sends for `seconds` and returns its result."""

    name: str
    run: Callable[[int, float], Sent]


class Crowd:
    """Up to `count` non-blocking connections. Each sends `first`, and is opened again when it was closed.

    `buffer` is the size of their receive buffers, in bytes; 0 leaves the system's.
    """

    def __init__(self, port: int, count: int, first: bytes = b"", buffer: int = 0) -> None:
        self.buffer = buffer
        self.sent = Sent()
        self.address = (HOST, port)
        self.count = min(count, _most_descriptors() - 100)
        self.first = first
        self.unsent: dict[socket.socket, memoryview] = {}
        self.received: dict[socket.socket, bytes] = {}
        self.selector = selectors.DefaultSelector()

    def fill(self, limit: int = 200) -> None:
        """Open missing connections, at most `limit` at once."""
        for _ in range(min(limit, self.count - len(self.unsent))):
            opened = socket.socket()
            opened.setblocking(False)
            if self.buffer:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.buffer)
            opened.connect_ex(self.address)
            self.sent.connections += 1
            self.unsent[opened] = memoryview(self.first)
            self.received[opened] = b""
            self.selector.register(opened, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def send(self, opened: socket.socket, data: bytes) -> None:
        """Send `data` if all earlier data were sent."""
        if not self.unsent[opened]:
            self.unsent[opened] = memoryview(data)
            self.selector.modify(opened, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def step(self, timeout: float = 0.01, read: bool = True) -> None:
        """Write and read where possible, and remove connections that the server has closed."""
        for key, mask in self.selector.select(timeout):
            opened = key.fileobj
            assert isinstance(opened, socket.socket)
            try:
                if mask & selectors.EVENT_WRITE:
                    self._write(opened)
                if read and mask & selectors.EVENT_READ:
                    data = opened.recv(1 << 18)
                    self.received[opened] = (self.received[opened] + data)[-1000:]
                    if not data:
                        self.forget(opened)
            except BlockingIOError:
                pass
            except OSError:
                self.forget(opened)

    def forget(self, opened: socket.socket) -> None:
        """Close a connection from this side."""
        self.selector.unregister(opened)
        del self.unsent[opened], self.received[opened]
        opened.close()

    def finish(self, seconds: float) -> Sent:
        """Wait up to `seconds` until the server has closed all connections. Return the result of the attack."""
        end = time.monotonic() + seconds
        while self.unsent and time.monotonic() < end:
            self.step(0.05)
        self.sent.left_open = len(self.unsent)
        for opened in list(self.unsent):
            self.forget(opened)
        return self.sent

    def _write(self, opened: socket.socket) -> None:
        rest = self.unsent[opened]
        if rest:
            count = opened.send(rest)
            self.sent.size += count
            self.unsent[opened] = rest[count:]
        if not self.unsent[opened]:
            self.selector.modify(opened, selectors.EVENT_READ)


def _most_descriptors() -> int:
    if sys.platform == "win32":
        return 500
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 10**6 if soft == resource.RLIM_INFINITY else soft


def until(seconds: float) -> Callable[[], bool]:
    """Return a function that returns True for `seconds` from now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end
