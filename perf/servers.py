"""Servers under test: started as processes of their own on a free port, measured from outside, ended by their id."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from perf.client import HOST

PATIENCE = 180.0  # seconds until a server must answer


@dataclass(frozen=True)
class Server:
    """A running server. Times in seconds, memory in MB (1e6 bytes)."""

    port: int
    pid: int
    cold_start: float  # from process start to the first 200

    def private_mb(self) -> list[float]:
        """Private memory (RssAnon) of each process of the server, the largest first."""
        return sorted((_status(pid, "RssAnon") * 1024 / 1e6 for pid in self._processes()), reverse=True)

    def cpu(self) -> float:
        """Processor time used so far, by all processes of the server."""
        ticks = 0
        for pid in self._processes():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _processes(self) -> list[int]:
        found = [self.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += [int(each) for each in (task / "children").read_text().split()]
        return found


@contextmanager
def started(command: Sequence[str], port: int, ready: str, log: Path, cwd: Path | None = None) -> Iterator[Server]:
    """Run `command` until left, once `ready` on `port` has answered 200. RuntimeError with its log when it does not."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, cwd=cwd)
    try:
        while not _answers(port, ready):
            if process.poll() is not None or time.perf_counter() - start > PATIENCE:
                raise RuntimeError(f"{command[0]}: expected an answer on port {port}, found: {log.read_text()[-2000:]}")
            time.sleep(0.005)
        yield Server(port, process.pid, time.perf_counter() - start)
    finally:
        _end(process)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server((HOST, 0)) as found:
        return int(found.getsockname()[1])


def musix(bundle: Path, port: int, workers: int = 1) -> list[str]:
    """The command that serves `bundle` by this interpreter's `musix`."""
    command = Path(sys.executable).with_name("musix")
    return [str(command), "serve", str(bundle), "--port", str(port), "--workers", str(workers)]


def _answers(port: int, path: str) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=5) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            return b" 200 " in connection.recv(64)
    except OSError:
        return False


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started: they share its session."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
