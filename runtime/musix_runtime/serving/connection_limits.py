"""Limits on connections of one process: how many, how long each phase may last, how many bytes are buffered.

Every connection is in one phase at a time. A phase is a dict in order of entry, so the connection that has been in it
longest comes first: one timer for the whole process closes what is overdue, and eviction takes constant time.
"""

import asyncio
import ipaddress
import logging
import sys
from collections.abc import Callable
from itertools import islice
from typing import Protocol

from musix_runtime.serving.refusals import REASONS
from musix_runtime.serving.throttled_log import ThrottledLog
from musix_runtime.settings import Settings

logger = logging.getLogger(__name__)
SWEEP_S = 0.2  # between two checks for overdue connections
SWEEP_SIZE = 50  # connections closed at a time, so that a sweep takes a few milliseconds at most
BODY_GRACE_S = 1.0  # beyond the body timeout: the application itself answers 408 first
LINGER_S = 1.0  # for a client to read the response to a refused request, before the connection is aborted
MAX_LINGERING = 64  # connections; a refused connection beyond that is closed at once
FREE_BYTES = 16 * 1024  # not counted for each connection, so that large requests never cause a refusal of small ones
RESERVED_DESCRIPTORS = 128  # for the bundle, metrics, a reload, and connections that are refused


class Connection(Protocol):
    """A connection, as the limiter uses it."""

    phase: "Phase | None"

    def cut(self, reason: str | None) -> None:
        """Close the connection, with a response where one is possible."""


class Phase(dict[Connection, float]):
    """Connections in one phase and when they entered it, oldest first. Without `reason`, closing them is no refusal."""

    def __init__(self, timeout_s: float, reason: str | None = None) -> None:
        super().__init__()
        self.timeout_s = timeout_s
        self.reason = reason


class ConnectionLimiter:
    """The connections of one process. `count` is called with the reason of every refusal.

    When `max_connections` are open, a new one evicts the one that has waited longest for its client: first those that
    never sent a whole request, then idle ones. Connections whose request is being answered are never evicted.
    """

    def __init__(self, settings: Settings, count: Callable[[str], None]) -> None:
        self.settings = settings
        self.heads = Phase(settings.head_timeout_s, "head_time")
        self.bodies = Phase(settings.body_timeout_s + BODY_GRACE_S, "body_time")
        self.stalled = Phase(settings.send_timeout_s, "send_time")  # clients that do not read their responses
        self.idle = Phase(settings.keep_alive_s)
        self.lingering = Phase(LINGER_S)  # refused clients that may read the response
        self.closing = Phase(settings.send_timeout_s)  # clients that may read the rest of their last response
        self._open: dict[Connection, str] = {}  # with their addresses
        self._addresses: dict[str, int] = {}
        self._buffers: dict[Connection, int] = {}  # bytes, of those that have more than FREE_BYTES
        self._buffered = 0
        self._count = count
        self._log = ThrottledLog(logger)
        self._timer: asyncio.TimerHandle | None = None

    def admit(self, connection: Connection, host: str) -> str | None:
        """Count a new connection and return None, or return the reason why it is refused."""
        limit = self.settings.max_connections_per_address
        address = _network(host) if limit else ""
        if limit and self._addresses.get(address, 0) >= limit:
            return "address"
        if len(self._open) >= self.settings.max_connections and not self._evict():
            return "connections"
        self._open[connection] = address
        if limit:
            self._addresses[address] = self._addresses.get(address, 0) + 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        return None

    def leave(self, connection: Connection) -> None:
        """Forget a connection that was lost or is being closed."""
        self.release(connection)
        address = self._open.pop(connection, "")
        if not address:
            return
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]

    def hold(self, connection: Connection, size: int) -> None:
        """Count `size` bytes as buffered for a connection. Beyond the limit the oldest unfinished request is cut."""
        self._buffered += size - self._buffers.get(connection, 0)
        self._buffers[connection] = size
        waiting = (self.heads, self.bodies, self.stalled)
        while self._buffered > self.settings.max_bodies_bytes:
            oldest = next((other for other in self._buffers if other.phase in waiting), connection)
            oldest.cut("buffered")
            self.release(oldest)

    def release(self, connection: Connection) -> None:
        """Count no more bytes as buffered for a connection."""
        self._buffered -= self._buffers.pop(connection, 0)

    def refused(self, reason: str) -> None:
        """Count a refusal, and log each reason at most once a minute."""
        self._count(reason)
        message, setting = REASONS[reason].message, REASONS[reason].setting
        hint = f"; {setting} sets the limit" if setting else ""
        self._log.warn(reason, f"connection refused ({reason}): {message}{hint}")

    def _evict(self) -> bool:
        """Close the connection that has waited longest for its client. Return whether there was one."""
        for phase in (self.heads, self.bodies, self.stalled, self.closing, self.idle):
            if phase:
                next(iter(phase)).cut("evicted")
                return True
        return False

    def _sweep(self) -> None:
        """Close overdue connections, a bounded number at a time."""
        loop = asyncio.get_running_loop()
        now, cut = loop.time(), 0
        for phase in (self.heads, self.bodies, self.stalled, self.idle, self.lingering, self.closing):
            last = now - phase.timeout_s
            overdue = [connection for connection, since in islice(phase.items(), SWEEP_SIZE) if since <= last]
            for connection in overdue:
                connection.cut(phase.reason)
            cut = max(cut, len(overdue))
        waiting = self._open or self.lingering or self.closing
        delay = 0.001 if cut == SWEEP_SIZE else SWEEP_S
        self._timer = loop.call_later(delay, self._sweep) if waiting else None


def _network(host: str) -> str:
    """Return what a limit counts: an IPv4 address, or the /64 network of an IPv6 address, which one client may own."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host or "-"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))


def fit_descriptors(settings: Settings) -> int:
    """Raise the soft limit of descriptors as needed. Return how many connections this process can hold."""
    wanted = settings.max_connections
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted + RESERVED_DESCRIPTORS:
        needed = wanted + RESERVED_DESCRIPTORS
        soft = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted
    fitting = max(1, min(wanted, soft - RESERVED_DESCRIPTORS))
    if fitting < wanted:
        logger.warning(
            "MUSIX_MAX_CONNECTIONS: expected at most %d, as this process may open %d files, found %d; %d are held",
            *(fitting, soft, wanted, fitting),
        )
    return fitting
