"""A server that is killed while it stores events: every acknowledged event is there, and once."""

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy

from tests.system.servers import serving, worker_pid

CLIENTS, BATCH = 3, 20


class Client(threading.Thread):
    """Sends events in batches, each until it is acknowledged or the server is gone."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__()
        self.connection = HTTPConnection("127.0.0.1", port, timeout=20)
        self.prefix = name
        self.acknowledged: list[str] = []
        self.sent: list[str] = []

    def run(self) -> None:
        with closing(self.connection), suppress(OSError, HTTPException):
            for i in count():
                ids = [f"{self.prefix}-{i}-{j}" for j in range(BATCH)]
                self.sent += ids
                self.acknowledged += post(self.connection, ids)


def post(connection: HTTPConnection, ids: list[str]) -> list[str]:
    """Send events with these ids and return those that were accepted."""
    now = datetime.now(UTC).isoformat()
    fields = {"userId": "u", "trackId": "t", "action": "played", "occurredAt": now}
    body = {"sentAt": now, "events": [{"eventId": event_id, **fields} for event_id in ids]}
    connection.request("POST", "/api/ml/events", json.dumps(body), {"content-type": "application/json"})
    results = json.loads(connection.getresponse().read())["data"]["events"]
    return [result["eventId"] for result in results if result["status"] == "accepted"]


def test_acknowledged_events_survive_the_kill_of_the_server(
    small_bundle: Path, database: str, request: pytest.FixtureRequest
) -> None:
    kills, rng = request.config.getoption("kills"), random.Random(7)
    acknowledged: list[str] = []
    sent: list[str] = []
    for run in range(kills):
        with serving(small_bundle, "--feedback", database) as (url, process):
            port, worker = int(url.rpartition(":")[2]), worker_pid(process)
            clients = [Client(port, f"{run}-{i}") for i in range(CLIENTS)]
            for client in clients:
                client.start()
            time.sleep(rng.uniform(0.05, 1.0))
            os.kill(worker, signal.SIGKILL)
            os.kill(process.pid, signal.SIGKILL)
            for client in clients:
                client.join()
                acknowledged += client.acknowledged
                sent += client.sent
        assert_stored_once(database, acknowledged)
    assert len(acknowledged) > 100 * kills
    with serving(small_bundle, "--feedback", database) as (url, _):
        connection = HTTPConnection("127.0.0.1", int(url.rpartition(":")[2]), timeout=20)
        for start in range(0, len(sent), 500):  # the clients send everything again
            assert set(post(connection, sent[start : start + 500])).isdisjoint(acknowledged)
        connection.close()
    assert_stored_once(database, sent)


def assert_stored_once(database: str, ids: list[str]) -> None:
    engine = sqlalchemy.create_engine(database)
    with engine.connect() as connection:
        stored = Counter(connection.execute(sqlalchemy.text("SELECT event_id FROM events")).scalars())
        if engine.dialect.name == "sqlite":
            assert connection.execute(sqlalchemy.text("PRAGMA integrity_check")).scalar_one() == "ok"
    engine.dispose()
    assert [event_id for event_id in ids if stored[event_id] != 1] == []
