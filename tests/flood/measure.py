"""Measurement of a server during an attack: latencies of another client, memory, descriptors, counters."""

import http.client
import multiprocessing
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from tests.flood.attacks import HOST, Attack, Sent
from tests.system.servers import CLIENT

REFUSED = re.compile(r'^musix_connections_refused_total\{reason="(\w+)"\} (\S+)$', re.MULTILINE)
BODY = b'{"userId":"listener-001","limit":3}'
SETTLED_S = 5.0  # after which closed connections must have no descriptor


@dataclass
class Result:
    """The effects of one attack."""

    name: str
    sent: Sent
    waits_ms: list[float]  # of another client, with a new connection for each request
    statuses: Counter[int]  # of its responses; 0: none
    rss_before: int  # bytes
    rss_peak: int
    descriptors_before: int
    descriptors_peak: int
    descriptors_after: int
    refused: dict[str, int] = field(default_factory=dict)

    @property
    def growth(self) -> int:
        """The growth of the memory in bytes."""
        return self.rss_peak - self.rss_before

    @property
    def closed(self) -> bool:
        """Whether the server has closed all connections of the attack and has no additional descriptors."""
        return self.sent.left_open == 0 and self.descriptors_after <= self.descriptors_before

    def lines(self) -> list[str]:
        """Return the result as lines of text."""
        refused = ", ".join(f"{reason} {count:,}" for reason, count in self.refused.items()) or "none"
        statuses = ", ".join(f"{status}: {count:,}" for status, count in sorted(self.statuses.items()))
        middle, late, most = (sorted(self.waits_ms)[int(share * (len(self.waits_ms) - 1))] for share in (0.5, 0.99, 1))
        held = f"{self.descriptors_before} before, peak {self.descriptors_peak}, {self.descriptors_after} after"
        return [
            self.name,
            f"  sent         {self.sent.connections:,} connections, {self.sent.size / 1e6:,.1f} MB",
            f"  client wait  P50 {middle:.1f} ms, P99 {late:.1f} ms, max {most:.1f} ms ({statuses})",
            f"  memory       {self.rss_before / 1e6:,.0f} MB before, peak +{self.growth / 1e6:,.1f} MB",
            f"  descriptors  {held}",
            f"  refused      {refused}",
            f"  closed       {'all' if self.closed else f'NOT ALL: {self.sent.left_open:,} left open'}",
        ]


class _Watch(threading.Thread):
    """Sends requests as another client and watches the process of the server, until it is stopped."""

    def __init__(self, port: int, pid: int) -> None:
        super().__init__()
        self.port, self.pid = port, pid
        self.waits: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.rss = self.descriptors = 0
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.005):
            start = time.perf_counter()
            self.statuses[ask(self.port)] += 1
            self.waits.append(1000 * (time.perf_counter() - start))
            self.rss = max(self.rss, rss(self.pid))
            self.descriptors = max(self.descriptors, descriptors(self.pid))


def ask(port: int) -> int:
    """Return the status of a recommendation over a new connection; 0 without a response."""
    connection = http.client.HTTPConnection(HOST, port, timeout=20)
    try:
        connection.request("POST", "/api/ml/recommend", BODY, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def measure(attack: Attack, port: int, pid: int, seconds: float) -> Result:
    """Attack the server from a separate process, while another client continues to send requests."""
    before = refusals(port)
    rss_before, descriptors_before = rss(pid), _settled(pid, 0)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=_run, args=(attack, port, seconds, sender))
    watch = _Watch(port, pid)
    watch.start()
    process.start()
    sender.close()
    try:
        sent: Sent = receiver.recv()
    finally:
        watch.stopped.set()
        watch.join()
        process.join()
    after = refusals(port)
    return Result(
        attack.name,
        sent,
        watch.waits,
        watch.statuses,
        rss_before,
        watch.rss,
        descriptors_before,
        watch.descriptors,
        _settled(pid, descriptors_before),
        {reason: count - before[reason] for reason, count in after.items() if count > before[reason]},
    )


def _run(attack: Attack, port: int, seconds: float, sender: Connection) -> None:
    sender.send(attack.run(port, seconds))


def refusals(port: int) -> dict[str, int]:
    """Return the counters of refused connections of the server."""
    text = CLIENT.get(f"http://{HOST}:{port}/metrics", timeout=20).text
    return {reason: int(float(count)) for reason, count in REFUSED.findall(text)}


def rss(pid: int) -> int:
    """Return the resident memory of a process in bytes, with mapped files."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) * 1024


def descriptors(pid: int) -> int:
    """Return the number of open descriptors of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _settled(pid: int, limit: int) -> int:
    """Return the number of descriptors when it is at limit `limit` or does not change any more."""
    end, count, last = time.monotonic() + SETTLED_S, descriptors(pid), -1
    while count > limit and (limit or count != last) and time.monotonic() < end:
        time.sleep(0.1)
        count, last = descriptors(pid), count
    return count
