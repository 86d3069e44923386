"""A server of a registry that swaps bundles under load: no request fails, and each response is of one bundle."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from string import ascii_uppercase

import pytest

from musix_runtime import Registry
from musix_runtime.models.parts import open_bundle
from tests.bundle_variants import plant, variant
from tests.system.servers import worker_pid

MUSIX = Path(sys.executable).with_name("musix")
TOKEN = "a token of the admin"
CONNECTIONS = 4
PAUSE_S = 0.05  # between the requests of a connection: without, the publisher hardly gets a processor
TRACK = "simulated0000000000001"
QUESTIONS: list[tuple[str, str, object]] = [
    ("POST", "/api/ml/recommend", {"userId": "listener-001", "limit": 3}),
    ("POST", "/api/ml/similar", {"trackId": TRACK, "limit": 3}),
    ("GET", "/ready", None),
    ("POST", "/api/ml/classify/batch", [{"trackId": TRACK}] * 20),
]


def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait until the condition is true, else fail."""
    end, pause = time.monotonic() + seconds, threading.Event()
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {seconds} s")
        pause.wait(0.02)


@dataclass
class Server:
    """A running `musix serve`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def ask(self, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> dict:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, headers=headers or {})
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def ready(self) -> dict:
        try:
            return self.ask("/ready")
        except OSError:
            return {}

    def answers(self, version: str) -> bool:
        return self.ready().get("version") == version

    def files(self) -> int:
        return len(list(Path(f"/proc/{worker_pid(self.process)}/fd").iterdir()))

    def memory(self) -> int:
        """Return the private memory in bytes, without mapped files."""
        status = Path(f"/proc/{worker_pid(self.process)}/status").read_text()
        return 1024 * int(status.partition("RssAnon:")[2].split()[0])

    def maps(self) -> str:
        return Path(f"/proc/{worker_pid(self.process)}/maps").read_text()


@contextmanager
def serve(store: Path, tmp_path: Path, *options: str) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {**os.environ, "MUSIX_POLL_INTERVAL_S": "0.1", "MUSIX_ADMIN_TOKEN": TOKEN}
    command = [MUSIX, "serve", store, "--port", str(port), *options]
    log = tmp_path / "log"
    with log.open("wb") as stream:
        server = Server(subprocess.Popen(command, env=environment, stderr=stream, stdout=stream), port, log)
    try:
        until(lambda: server.process.poll() is not None or server.ready(), "the server is up")
        yield server
    finally:
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(30)


@dataclass
class Load:
    """Connections with consecutive requests. Records failures, and the bundles of the responses."""

    port: int
    marks: dict[str, str]  # label of each valid bundle -> first letter of its titles
    failures: list[str] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    latest: dict[int, str] = field(default_factory=dict)  # which bundle each connection had its last answer from
    stop: threading.Event = field(default_factory=threading.Event)
    questions: Sequence[tuple[str, str, object]] = tuple(QUESTIONS)

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._connection, args=(i,)) for i in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()

    def _connection(self, number: int) -> None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.connect()
        connection.auto_open = 0  # a connection that the server drops is a failure, not a reason to connect again
        while not self.stop.wait(PAUSE_S):
            method, path, question = self.questions[number % len(self.questions)]
            number += 1
            try:
                body = None if question is None else json.dumps(question)
                connection.request(method, path, body, {"content-type": "application/json"})
                response = connection.getresponse()
                self.note(path, question, response.status, response.headers.get_all("x-bundle") or [], response.read())
            except Exception as error:  # whatever it is, a request failed
                self.failures.append(f"{path}: {error!r}")
                return
        connection.close()

    def note(self, path: str, question: object, status: int, labels: list[str], body: bytes) -> None:
        """Record a response, and whether it is of the bundle that it names."""
        if status != 200 or len(labels) != 1 or labels[0] not in self.marks:
            self.failures.append(f"{path}: {status} {labels} {body[:200]!r}")
            return
        answer, label = json.loads(body), labels[0]
        self.answered[label] += 1
        self.latest[threading.get_ident()] = label
        if path == "/ready":
            same = f"{answer['name']}-{answer['version']}@{answer['digest']}" == label
        else:
            data = answer["data"]
            tracks = [] if isinstance(data, list) else data.get("recommendations") or data["tracks"]
            same = all(item["name"].startswith(self.marks[label]) for item in tracks)
        if not same:
            self.failures.append(f"{path}: says {label}, answers {body[:300]!r}")


@pytest.fixture(scope="module")
def bundles(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """21 versions, whose titles begin with different letters."""
    folder = tmp_path_factory.mktemp("versions")
    return [variant(small_bundle, folder / f"1.{i}.0", f"1.{i}.0", ascii_uppercase[i]) for i in range(21)]


def marks(bundles: list[Path]) -> dict[str, str]:
    return {open_bundle(path).label: letter for path, letter in zip(bundles, ascii_uppercase, strict=False)}


BROKEN = {7: "mood/model.onnx", 14: "content/index.faiss"}


def test_twenty_swaps_under_load_lose_no_request(bundles: list[Path], tmp_path: Path) -> None:
    store = Registry(tmp_path / "store")
    store.publish(bundles[0])
    good = [path for i, path in enumerate(bundles) if i not in BROKEN]
    with serve(store.path, tmp_path) as server:
        files, memory = server.files(), []
        load = Load(server.port, marks(bundles))
        with load.running():
            for i, bundle in enumerate(bundles[1:], 1):
                swap(server, store, bundle, BROKEN.get(i))
                if bundle in good:
                    label = open_bundle(bundle).label
                    until(lambda label=label: load.answered[label] or load.failures, f"{label} answers the load")
                memory.append(server.memory())
        total = load.answered.total() + len(load.failures)
        print(f"\n{len(load.failures)} of {total:,} requests failed; {len(load.answered)} bundles answered")
        assert load.failures == []
        until(lambda: server.files() <= files, "open files are back to what they were")
        print(f"open files: {files} before, {server.files()} after")
        print("memory of its own after each swap, MB:", *(f"{item / 1e6:.1f}" for item in memory))
        others = [item for item in bundles[:-1] if f"{store.path}/demo/{item.name}/" in server.maps()]
        assert others == []
        # The first swaps fill the allocator's pools; a leak of engines would go on growing.
        assert memory[-1] - memory[9] < 0.1 * memory[9]
        rolled = server.ask("/api/ml/rollback", "POST", {"authorization": f"Bearer {TOKEN}"})
        assert rolled["data"]["version"] == store.live("demo").name == "1.19.0"
    refusals = [line for line in server.log.read_text().splitlines() if "is refused" in line]
    assert ["1.7.0" in refusals[0], "1.14.0" in refusals[1], len(refusals)] == [True, True, 2]


def swap(server: Server, store: Registry, bundle: Path, broken: str | None = None) -> None:
    """Publish a bundle and wait until it is served; or break it and wait until the server logs the refusal."""
    if broken is None:
        store.publish(bundle)
        until(lambda: server.answers(bundle.name), f"{bundle.name} answers")
        return
    before = server.ready()["version"]
    plant(bundle, store.path, "demo", broken)
    until(lambda: server.ready().get("failed", {}).get("version") == bundle.name, f"{bundle.name} is refused")
    assert server.answers(before)


def test_several_workers_swap_under_load(bundles: list[Path], tmp_path: Path) -> None:
    store = Registry(tmp_path / "store")
    store.publish(bundles[0])
    with serve(store.path, tmp_path, "--workers", "2") as server:
        load = Load(server.port, marks(bundles[:5]))
        with load.running():
            for bundle in bundles[1:5]:
                if bundle == bundles[2]:
                    plant(bundle, store.path, "demo", "ranker/model.onnx")
                    until(lambda: server.ready().get("failed"), "the broken bundle is refused")
                    assert set(load.latest.values()) == {open_bundle(bundles[1]).label}
                    continue
                label = open_bundle(store.publish(bundle)).label
                until(lambda label=label: set(load.latest.values()) == {label}, f"every connection has {label}")
        assert load.failures == []
        assert len(load.answered) == 4


def test_request_is_answered_by_the_bundle_at_its_start(bundles: list[Path], tmp_path: Path) -> None:
    """A swap in the middle of a request: the old bundle answers, and is closed even if the client stays connected."""
    store = Registry(tmp_path / "store")
    old = store.publish(bundles[0])
    with serve(store.path, tmp_path) as server:
        body = json.dumps({"trackId": TRACK, "limit": 3}).encode()
        slow = HTTPConnection("127.0.0.1", server.port, timeout=30)
        slow.putrequest("POST", "/api/ml/similar")
        slow.putheader("content-type", "application/json")
        slow.putheader("content-length", str(len(body)))
        slow.endheaders(body[:5])
        swap(server, store, bundles[1])
        assert f"{old}/" in server.maps()
        slow.send(body[5:])
        response = slow.getresponse()
        assert response.headers["x-bundle"] == open_bundle(bundles[0]).label
        assert {item["name"][0] for item in json.loads(response.read())["data"]["tracks"]} == {"A"}
        until(lambda: f"{old}/" not in server.maps(), "the old bundle is closed")
        slow.close()
