"""What an attack is, and the connections that attacks are made of. All are to 127.0.0.1."""

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
    """What an attack came to: connections opened and bytes sent, and those that the server left open at the end."""

    connections: int = 0
    size: int = 0
    left_open: int = 0


@dataclass(frozen=True)
class Attack:
    """A named attack: `run(port, seconds)` sends for so long and returns what it came to."""

    name: str
    run: Callable[[int, float], Sent]


class Crowd:
    """Connections that never block: up to `count` at a time, each sending `first`, reopened when they are closed.

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

    def fill(self, most: int = 200) -> None:
        """Open what is missing, `most` at a time."""
        for _ in range(min(most, self.count - len(self.unsent))):
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
        """Send more, when what was to be sent before is gone."""
        if not self.unsent[opened]:
            self.unsent[opened] = memoryview(data)
            self.selector.modify(opened, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def step(self, timeout: float = 0.01, read: bool = True) -> None:
        """Write and read what can be; forget connections that the server closed."""
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
        """Close one from this side."""
        self.selector.unregister(opened)
        del self.unsent[opened], self.received[opened]
        opened.close()

    def finish(self, seconds: float) -> Sent:
        """Wait for so long until the server has closed all; what the attack came to."""
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
    """Whether so many seconds have not passed yet."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end
