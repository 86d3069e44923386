"""Server processes on free ports of this machine: timed at their start, measured, and ended by their ids."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from perf import client

HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0  # to the first response
STOP_TIMEOUT_S = 20.0
MUSIX = Path(sys.executable).with_name("musix")


@dataclass(frozen=True)
class Usage:
    """Memory of one process in MB (1e6 bytes), and its processor time in seconds."""

    pid: int
    cpu: float
    private: float  # RssAnon: pages that no other process can share
    resident: float  # RSS: all pages, shared ones in full
    proportional: float  # PSS: all pages, each divided by the number of processes that map it


@dataclass(frozen=True)
class Server:
    """A running server, and the time to its first response with status 200."""

    process: psutil.Process
    port: int
    cold_start_s: float
    log: Path

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def usage(self) -> list[Usage]:
        """Return the usage of the running processes of the server, the one with most private memory first."""
        result = [_usage(item) for item in [self.process, *self.process.children(recursive=True)]]
        return sorted(result, key=lambda item: -item.private)

    def cpu_seconds(self) -> float:
        """Return the processor time of all its running processes."""
        return sum(item.cpu for item in self.usage())


@contextmanager
def serve(bundle: Path, *, workers: int = 1, probe: bytes | None = None, **environment: str) -> Iterator[Server]:
    """Run `musix serve` of a bundle or registry; `environment` adds variables, such as MUSIX_POLL_INTERVAL_S="1"."""
    port = free_port()
    command = [MUSIX, "serve", bundle, "--host", HOST, "--port", port, "--workers", workers]
    with start([str(item) for item in command], port, probe or client.get("/ready"), **environment) as server:
        yield server


@contextmanager
def start(command: Sequence[str], port: int, probe: bytes, **environment: str) -> Iterator[Server]:
    """Start a server, wait until it answers `probe` with 200, and end it with all its processes.

    Raises RuntimeError with the end of its log when it ends or gives no such answer in time.
    """
    with tempfile.TemporaryDirectory(prefix="musix-perf-") as folder:
        log = Path(folder) / "log"
        begun = time.perf_counter()
        with log.open("wb") as output:
            process = psutil.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})
        try:
            _wait(process, f"http://{HOST}:{port}", probe, log, begun + START_TIMEOUT_S)
            yield Server(psutil.Process(process.pid), port, time.perf_counter() - begun, log)
        finally:
            stop(process)


def stop(process: psutil.Popen) -> None:
    """End a process that this one has started, and its children; by force after `STOP_TIMEOUT_S`."""
    whole = [process, *_children(process)]
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(whole, STOP_TIMEOUT_S)
    for item in left:
        item.kill()
    psutil.wait_procs(left, STOP_TIMEOUT_S)
    process.wait()


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(process: psutil.Popen, url: str, probe: bytes, log: Path, end: float) -> None:
    status, body = client.FAILED, b""
    while time.perf_counter() < end and process.poll() is None:
        try:
            status, body = client.ask(url, probe)
        except OSError:
            time.sleep(0.01)  # not listening yet
            continue
        if status == 200:
            return
        time.sleep(0.05)
    tail = log.read_text(errors="replace")[-2000:]
    command = subprocess.list2cmdline(process.args)
    raise RuntimeError(f"{command}: expected an answer with 200, found {status} {body[:500]!r}; its log ends:\n{tail}")


def _children(process: psutil.Popen) -> list[psutil.Process]:
    try:
        result: list[psutil.Process] = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return result


def _usage(process: psutil.Process) -> Usage:
    folder = Path(f"/proc/{process.pid}")
    status, shares = dict(_fields(folder / "status")), dict(_fields(folder / "smaps_rollup"))
    times = process.cpu_times()
    sizes = (status["RssAnon"], status["VmRSS"], shares["Pss"])
    return Usage(process.pid, times.user + times.system, *(int(item.split()[0]) * 1024 / 1e6 for item in sizes))


def _fields(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        yield name, value
