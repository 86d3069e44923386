"""Several worker processes: their number, their addresses, and their replacement."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from musix_runtime import Registry
from tests.bundle_variants import flip, variant
from tests.system.servers import CLIENT, MUSIX, free_port, running, serving, worker_pid
from tests.system.test_server import BODY, begin

WAIT_S = 240


def workers(process: subprocess.Popen[str]) -> set[int]:
    """Return the ids of the running worker processes of a server."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return {int(item) for item in children}


def until(condition: Callable[[], Any]) -> Any:
    """Return the first true value of the condition. Fails after a minute."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        try:
            if value := condition():
                return value
        except (httpx2.TransportError, FileNotFoundError):
            pass
        time.sleep(0.05)
    raise AssertionError("expected the condition to become true")


def end_workers(process: subprocess.Popen[str]) -> set[int]:
    """Kill all workers. Return their ids."""
    ended = workers(process)
    for item in ended:
        os.kill(item, signal.SIGKILL)
    return ended


@pytest.mark.parametrize(("options", "count"), [([], 2), (["--workers", "1"], 1), (["--workers", "3"], 3)])
def test_web_concurrency_is_the_default_number_of_workers(demo_bundle: Path, options: list[str], count: int) -> None:
    with serving(demo_bundle, *options, WEB_CONCURRENCY="2") as (_, process):
        assert len(workers(process)) == count


def test_wrong_web_concurrency_prints_one_sentence(demo_bundle: Path) -> None:
    environment = {**os.environ, "WEB_CONCURRENCY": "two"}
    done = subprocess.run([MUSIX, "serve", demo_bundle], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: WEB_CONCURRENCY: expected a number of workers above 0, found 'two'\n"


@pytest.mark.parametrize("count", ["0", "257", "100000"])
def test_a_number_of_workers_beyond_the_bound_is_refused(demo_bundle: Path, count: str) -> None:
    done = subprocess.run(
        [MUSIX, "serve", demo_bundle, "--workers", count], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (2, f"error: workers: expected 1 to 256 processes, found {int(count):,}\n")


def test_no_worker_starts_after_a_signal() -> None:
    """The signal comes while workers are started: those that run are stopped, and the others are not started."""
    program = """
import os, signal, time
from musix_runtime.cli.supervisor import supervise

parent, forks = os.getpid(), []
os.register_at_fork(after_in_parent=lambda: forks.append(1))
def serve():
    os.kill(parent, signal.SIGTERM)
    time.sleep(60)
supervise(serve, 200)
print(len(forks))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200


def test_a_process_that_cannot_be_forked_is_named_and_the_others_are_stopped() -> None:
    """A user who is not root may have no more processes, after the first worker."""
    program = """
import os, resource, time
from musix_runtime.cli.supervisor import supervise
from musix_runtime.errors import WorkerError

if os.getuid() == 0:
    os.setuid(65534)
os.register_at_fork(after_in_parent=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (0, 0)))
try:
    supervise(lambda: time.sleep(60), 3)
except WorkerError as error:
    print(error)
try:
    os.wait()
except ChildProcessError:
    print("no worker is left")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first.startswith("worker: expected a new process, found: Resource temporarily unavailable; raise the limit")
    assert second == "no worker is left"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("host", "asked"), [("::1", "[::1]"), ("::", "[::1]"), ("::", "127.0.0.1")])
def test_ipv6_hosts_are_served(demo_bundle: Path, host: str, asked: str, count: int) -> None:
    port = free_port()
    command = [MUSIX, "serve", demo_bundle, "--host", host, "--port", port, "--workers", count]
    with running(command, f"http://{asked}:{port}/ready"):
        assert CLIENT.get(f"http://{asked}:{port}/health").status_code == 200


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_ipv6_port_in_use_prints_one_sentence(demo_bundle: Path) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        command = [MUSIX, "serve", demo_bundle, "--host", "::1", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: [::1]:{port}: expected a free port to listen on, found: Address already in use\n"


def test_workers_serve_without_a_writable_folder(demo_bundle: Path) -> None:
    read_only = "mount -o remount,ro,bind / && ! touch /tmp/probe 2>/dev/null"
    unshare = ["unshare", "-rm", "sh", "-c"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*unshare, read_only], check=False, capture_output=True).returncode
    ):
        pytest.skip("needs a mount namespace of its own")
    port = free_port()
    serve = f"{MUSIX} serve {demo_bundle} --port {port} --workers 2"
    with running([*unshare, f"{read_only} && exec {serve}"], f"http://127.0.0.1:{port}/ready") as process:
        text = CLIENT.get(f"http://127.0.0.1:{port}/metrics").text
        process.send_signal(signal.SIGTERM)
        log = process.stdout.read()
    assert "musix_requests_total" in text
    assert "/metrics counts only the requests of the worker that answers" in log
    assert "Traceback" not in log


def test_a_full_temporary_disk_ends_no_worker(demo_bundle: Path, tmp_path: Path) -> None:
    """A count in a part of a file that has no room on the disk would end the worker (SIGBUS)."""
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=8m tmpfs "$0" && exec "$@"', tmp_path]
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs a mount namespace of its own")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [*mount, MUSIX, "serve", demo_bundle, "--port", port, "--workers", 2]
    with running(command, f"{url}/ready", TMPDIR=str(tmp_path)) as process:
        until(lambda: len(workers(process)) == 2)
        until(lambda: all(len(_maps(worker)) == 3 for worker in workers(process)))
        before = workers(process)
        disk = Path(f"/proc/{process.pid}/root{tmp_path}")
        with suppress(OSError), (disk / "fill").open("wb", buffering=0) as fill:
            while fill.write(bytes(4096)):
                pass
        assert os.statvfs(disk).f_bavail == 0
        for path in ("/health", "/ready", "/metrics", "/openapi.json", "/nothing") * 20:
            assert CLIENT.get(url + path).status_code in (200, 404)
        assert CLIENT.post(f"{url}/api/ml/recommend", json={"userId": "listener-001"}).status_code == 200
        assert workers(process) == before


def _maps(worker: int) -> list[str]:
    """Return the files of metrics that a worker has mapped."""
    return [line for line in Path(f"/proc/{worker}/maps").read_text().splitlines() if line.endswith(".db")]


def test_a_full_disk_at_the_start_is_named(demo_bundle: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [MUSIX, "serve", demo_bundle, "--port", "0", "--workers", "2"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"error: {tmp_path}" in done.stderr
    assert "expected room for the metrics that the workers share, found: File too large; make room" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_worker_that_dies_is_replaced(demo_bundle: Path) -> None:
    with serving(demo_bundle, "--workers", 2) as (url, process):
        before = workers(process)
        os.kill(min(before), signal.SIGKILL)
        until(lambda: len(workers(process) - before) == 1)
        assert max(before) in workers(process)
        assert until(lambda: CLIENT.get(f"{url}/ready").status_code == 200)


def test_replaced_workers_serve_the_last_valid_version(demo_bundle: Path, tmp_path: Path) -> None:
    store = Registry(tmp_path / "store")
    for version in ("1.0.0", "1.1.0"):
        store.publish(variant(demo_bundle, tmp_path / version, version))
    with serving(store.path, "--workers", 2) as (url, process):
        assert CLIENT.get(f"{url}/ready").json()["version"] == "1.1.0"
        flip(store.live("demo") / "mood/model.onnx")
        end_workers(process)
        ready = until(lambda: CLIENT.get(f"{url}/ready").json())
    assert ready["version"] == "1.0.0"
    assert ready["failed"] == {"version": "1.1.0", "error": "HashError"}


def test_workers_that_cannot_start_end_the_command(copy: Path) -> None:
    with serving(copy, "--workers", 2) as (url, process):
        flip(copy / "mood/model.onnx")
        end_workers(process)
        assert process.wait(WAIT_S) == 4
        log = process.stdout.read()
        with pytest.raises(httpx2.ConnectError):
            CLIENT.get(f"{url}/ready")
    assert "mood/model.onnx: expected SHA-256" in log
    assert "error: workers: expected processes that keep running, found " in log
    assert "Traceback" not in log


def test_workers_that_are_killed_at_once_end_the_command(demo_bundle: Path) -> None:
    with serving(demo_bundle, "--workers", 2) as (_, process):
        until(lambda: [end_workers(process)] and process.poll() is not None)
        assert process.returncode == 4
        assert "error: workers: expected processes that keep running, found " in process.stdout.read()


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_server_goes_on_while_one_of_its_workers_does(seconds: int) -> None:
    """The first worker runs on, the second one ends, at once or after a while, and five after it end at once."""
    program = f"""
import os, signal, time
from musix_runtime.cli import supervisor

supervisor.WINDOW_S = supervisor.RETRY_S = 0.3
parent, forks = os.getpid(), []
os.register_at_fork(after_in_parent=lambda: forks.append(1))
def serve():
    number = len(forks)
    if number == 7:
        os.kill(parent, signal.SIGTERM)
    time.sleep({{0: 60, 1: {seconds}, 7: 60}}.get(number, 0))
    os.kill(os.getpid(), signal.SIGSEGV)
supervisor.supervise(serve, 2)
print(len(forks))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "8\n"), done.stderr
    assert done.stderr.count("was ended by SIGSEGV") == 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_workers_finish_their_requests(demo_bundle: Path, number: signal.Signals) -> None:
    with serving(demo_bundle, "--workers", 2) as (url, process), begin(url) as started:
        every = workers(process)
        process.send_signal(number)
        until(lambda: not _accepts(url))
        started.sendall(BODY[5:])
        assert started.recv(65536).startswith(b"HTTP/1.1 200")
        assert process.wait(WAIT_S) == 0
        assert not [item for item in every if Path(f"/proc/{item}").exists()]


def _accepts(url: str) -> bool:
    try:
        CLIENT.get(f"{url}/health")
    except httpx2.TransportError:
        return False
    return True


def test_single_worker_is_replaced_after_a_signal(demo_bundle: Path) -> None:
    """SIGBUS, as when a mapped file is truncated."""
    with serving(demo_bundle) as (url, process):
        killed = worker_pid(process)
        os.kill(killed, signal.SIGBUS)
        until(lambda: worker_pid(process) != killed)
        until(lambda: CLIENT.post(f"{url}/api/ml/recommend", json={"userId": "x"}).status_code == 200)
    assert process.returncode == 0


def test_single_worker_that_keeps_dying_ends_the_command(demo_bundle: Path) -> None:
    with serving(demo_bundle) as (_, process):
        killed: set[int] = set()
        while process.poll() is None:
            with suppress(ValueError, FileNotFoundError):  # between two workers
                if (worker := worker_pid(process)) not in killed:
                    os.kill(worker, signal.SIGSEGV)
                    killed.add(worker)
            time.sleep(0.01)
        assert process.returncode == 4
        assert len(killed) == 5
        assert "error: workers: expected processes that keep running, found 5 that ended" in process.stdout.read()


def test_truncated_bundle_is_refused_by_the_replaced_worker(demo_bundle: Path, tmp_path: Path) -> None:
    """A registry serves the last valid version."""
    alone = Path(shutil.copytree(demo_bundle, tmp_path / "alone"))
    with serving(alone, MUSIX_POLL_INTERVAL_S="60") as (_, process):
        os.truncate(alone / "content" / "vectors.npy", 100)
        os.kill(worker_pid(process), signal.SIGBUS)
        assert process.wait(WAIT_S) == 4
        assert "content/vectors.npy: expected" in process.stdout.read()
    store = Registry(tmp_path / "store")
    store.publish(variant(demo_bundle, tmp_path / "first", "0.9.0"))
    live = store.publish(demo_bundle)
    with serving(store.path, MUSIX_POLL_INTERVAL_S="60") as (url, process):
        assert CLIENT.get(f"{url}/ready").json()["version"] == "1.0.0"
        os.truncate(live / "content" / "vectors.npy", 100)
        os.kill(worker_pid(process), signal.SIGBUS)
        until(lambda: CLIENT.get(f"{url}/ready").json()["version"] == "0.9.0")
