"""The server as a process: workers, limits, log, metrics, and how it stops."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPResponse
from pathlib import Path

import httpx2
import pytest

from musix_runtime import Registry
from tests.system.servers import CLIENT, MUSIX, free_port, serving, worker_pid
from tests.system.test_swap import until

QUESTION = {"userId": "listener-001"}
BODY = json.dumps(QUESTION).encode()
HEAD = f"""POST /api/ml/recommend HTTP/1.1\r
host: x\r
content-type: application/json\r
content-length: {len(BODY)}\r
\r
""".encode()


def begin(url: str) -> socket.socket:
    """Return a connection that has sent the start of a request."""
    connection = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20)
    connection.sendall(HEAD + BODY[:5])
    return connection


def number(metrics: str, name: str) -> float:
    """Return the value of a metric, summed over the other labels."""
    pattern = re.compile(rf"^{name} (\S+)$", re.MULTILINE)
    return sum(float(item) for item in pattern.findall(metrics))


@pytest.mark.parametrize("workers", [1, 2])
def test_metrics_count_the_requests_of_all_workers(demo_bundle: Path, workers: int) -> None:
    with serving(demo_bundle, "--workers", workers) as (url, _):
        for _ in range(30):  # over a new connection each: any worker may answer
            assert CLIENT.post(f"{url}/api/ml/recommend", json=QUESTION).status_code == 200
        CLIENT.post(f"{url}/api/ml/similar", json={"trackId": "no such track"})
        answered = r'musix_requests_total\{route="/api/ml/recommend",status="200"\}'
        # A request is counted after its response: another worker may be asked for the metrics before.
        until(lambda: number(CLIENT.get(f"{url}/metrics").text, answered) >= 30, "the last request is counted")
        text = CLIENT.get(f"{url}/metrics").text
    assert number(text, answered) == 30
    assert number(text, r'musix_requests_total\{route="/api/ml/similar",status="404"\}') == 1
    assert number(text, r'musix_request_seconds_count\{route="/api/ml/recommend"\}') == 30
    assert number(text, r'musix_recommendations_total\{source="hybrid"\}') == 30
    assert number(text, r'musix_stage_seconds_total\{stage="ranker"\}') > 0
    assert number(text, r'musix_bundle\{digest="[0-9a-f]{64}",name="demo",version="1.0.0"\}') == 1


def test_access_log_has_one_json_line_per_request_and_is_off_by_default(demo_bundle: Path) -> None:
    for options, lines in ((["--access-log"], 2), ([], 0)):
        with serving(demo_bundle, *options) as (url, process):
            CLIENT.post(f"{url}/api/ml/recommend", json=QUESTION)
            process.send_signal(signal.SIGTERM)
            results = [json.loads(line) for line in process.stdout if line.startswith("{")]
        assert len(results) == lines
        if results:
            (line,) = (item for item in results if item["path"] == "/api/ml/recommend")
            assert (line["method"], line["status"], line["source"]) == ("POST", 200, "hybrid")
            assert (line["bundle"], line["ms"] > 0) == ("demo-1.0.0", True)


def test_slow_body_times_out_without_delaying_others(demo_bundle: Path) -> None:
    with serving(demo_bundle, MUSIX_BODY_TIMEOUT_S="0.5") as (url, _), begin(url) as slow:
        assert CLIENT.post(f"{url}/api/ml/recommend", json=QUESTION).status_code == 200
        answer = b""
        while chunk := slow.recv(65536):  # until the server closes
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"expected all of it within 0.5 s, found 5 bytes" in answer


def test_requests_beyond_the_queue_are_rejected_and_others_answered(demo_bundle: Path) -> None:
    """One hundred questions in one moment, where three may wait: half over connections that stay, who are sent away at
    the door, half over connections that close, who are sent away by the application. The server sleeps while they are
    sent, so that it finds them all at once."""
    closing = HEAD.replace(b"host", b"connection: close\r\nhost")
    with serving(demo_bundle, MUSIX_MAX_QUEUE="3") as (url, process), ExitStack() as stack:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        every = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(100)]
        for connection in every:  # a new connection may wait outside until there is time for it
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
            response = HTTPResponse(connection)
            response.begin()
            assert response.read()
        worker = worker_pid(process)
        os.kill(worker, signal.SIGSTOP)
        for i, connection in enumerate(every):
            connection.sendall((closing if i % 2 else HEAD) + BODY)
        os.kill(worker, signal.SIGCONT)
        answers = [stack.enter_context(HTTPResponse(item)) for item in every]
        for item in answers:
            item.begin()
        sent = [(dict(item.getheaders()), json.loads(item.read())) for item in answers if item.status == 503]
        text = CLIENT.get(f"{url}/metrics").text
    assert {item.status for item in answers} == {200, 503}
    names = {"content-type", "content-length", "retry-after", "date", "x-bundle", "server-timing"}
    assert {"connection" in headers for headers, _ in sent} == {True, False}
    for headers, body in sent:
        assert headers.keys() - {"connection"} == names
        assert (headers["retry-after"], body["error"]["code"]) == ("1", "busy")
    assert number(text, r'musix_shed_total\{route="/api/ml/recommend"\}') == len(sent)


def test_stopped_server_finishes_its_requests(demo_bundle: Path) -> None:
    with serving(demo_bundle) as (url, process), begin(url) as started:
        CLIENT.get(f"{url}/health")  # so that the server has read the start by now
        process.send_signal(signal.SIGTERM)
        while True:  # no new connection is taken any more
            try:
                CLIENT.get(f"{url}/health")
            except httpx2.TransportError:
                break
        started.sendall(BODY[5:])
        assert started.recv(65536).startswith(b"HTTP/1.1 200")
        assert process.wait(30) == 0


def test_wrong_settings_print_one_sentence(demo_bundle: Path) -> None:
    command = [MUSIX, "serve", demo_bundle, "--port", str(free_port())]
    done = subprocess.run(command, env={"MUSIX_MAX_QUEUE": "many"}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: MUSIX_MAX_QUEUE: expected a number of requests above 0, found 'many'\n"


def test_wrong_tokens_are_delayed_without_delaying_others(demo_bundle: Path, tmp_path: Path) -> None:
    store = Registry(tmp_path / "store")
    store.publish(demo_bundle)
    head = b"POST /api/ml/reload HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nauthorization: Bearer %b\r\n\r\n"
    with serving(store.path, MUSIX_ADMIN_TOKEN="right") as (url, _), ExitStack() as stack:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        every = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(30)]
        start = time.monotonic()
        for connection in every:
            connection.sendall(head % b"wrong")
        right = CLIENT.post(f"{url}/api/ml/reload", headers={"authorization": "Bearer right"})
        answers = [int(connection.recv(65536)[9:12]) for connection in every]
        assert time.monotonic() - start >= 1
    assert right.status_code == 200
    assert sorted(answers) == [403] * 20 + [503] * 10


def test_probes_are_answered_under_overload(demo_bundle: Path) -> None:
    with serving(demo_bundle, MUSIX_MAX_QUEUE="1") as (url, _), ThreadPoolExecutor(16) as threads:
        stop = threading.Event()

        def ask() -> set[int]:
            with httpx2.Client() as client:
                statuses = set()
                while not stop.is_set():
                    statuses.add(client.post(f"{url}/api/ml/recommend", json=QUESTION).status_code)
                return statuses

        asking = [threads.submit(ask) for _ in range(16)]
        try:
            while not number(CLIENT.get(f"{url}/metrics").text, r"musix_shed_total\{.*\}"):
                pass
            statuses = [CLIENT.get(f"{url}{path}").status_code for path in ("/health", "/ready", "/metrics") * 20]
        finally:
            stop.set()
        assert set(statuses) == {200}
        assert 503 in set().union(*(item.result() for item in asking))
