"""Real servers for tests: commands in separate processes on free ports, ended by their ids."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2

MUSIX = Path(sys.executable).with_name("musix")
# Opens a connection for each request. A new client for each would read the certificates of the system, for 30 ms.
CLIENT = httpx2.Client(verify=False, limits=httpx2.Limits(max_keepalive_connections=0))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Sequence[object], ready: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run `command` in the context, after the URL `ready` has responded."""
    with subprocess.Popen(
        [str(item) for item in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        try:
            while not _answers(ready):
                assert process.poll() is None, process.stdout.read()
                time.sleep(0.05)
            yield process
        finally:
            process.terminate()
            process.wait(30)


def _answers(url: str) -> bool:
    try:
        CLIENT.get(url)
    except httpx2.TransportError:
        return False
    return True


@contextmanager
def serving(bundle: Path, *options: object, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `musix serve BUNDLE`, and yield its URL and process."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running([MUSIX, "serve", bundle, "--port", port, *options], f"{url}/ready", **environment) as process:
        yield url, process


def worker_pid(process: subprocess.Popen[str]) -> int:
    """Return the worker process: the only child of the command, which replaces it when it dies."""
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)
