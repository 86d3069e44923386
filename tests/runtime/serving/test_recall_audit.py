import time
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from musix_runtime import Engine, RecommendRequest, create_app
from musix_runtime.serving.idle_worker import MAX_WAITING, IdleWorker
from musix_runtime.serving.recall_audit import RecallAudit
from musix_runtime.settings import Settings


def audited(client: TestClient) -> dict[str, tuple[float, float]]:
    """Return the number of repeated searches and the sum of their recalls, by part."""
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    figures = {}
    for part in ("collab", "content"):
        labels = f'{{part="{part}"}}'
        figures[part] = (
            float(lines[f"musix_search_recall_count{labels}"]),
            float(lines[f"musix_search_recall_sum{labels}"]),
        )
    return figures


def test_every_second_recommendation_is_repeated_exactly(ivf_bundle: Path) -> None:
    engine = Engine.open(ivf_bundle)
    requests = [{"userId": f"listener-{i:03d}"} for i in range(6)]
    with TestClient(create_app(engine, Settings(audit_every=2))) as client:
        assert audited(client) == {"collab": (0, 0), "content": (0, 0)}
        for done, request in enumerate(requests, 1):
            client.post("/api/ml/recommend", json=request)
            until = time.monotonic() + 20
            while audited(client)["collab"][0] < done // 2 and time.monotonic() < until:
                time.sleep(0.05)
        expected = [engine.recall(RecommendRequest(user_id=each["userId"])) for each in requests[1::2]]
        for part, (count, total) in audited(client).items():
            assert (count, total) == (3, pytest.approx(np.sum([recall[part] for recall in expected])))


def test_the_newest_wait_while_the_server_is_busy(ivf_bundle: Path) -> None:
    engine, seen, busy = Engine.open(ivf_bundle), [], [True]
    worker = IdleWorker(lambda: not busy[0])
    audit = RecallAudit(worker, lambda part, recall: seen.append((part, recall)), every=1)
    requests = [RecommendRequest(user_id=f"listener-{i % 9:03d}") for i in range(MAX_WAITING + 1)]
    with worker.running():
        for request in requests:
            audit.offer(engine, request)
        time.sleep(0.5)
        assert seen == []
        busy[0] = False
        until = time.monotonic() + 20
        while len(seen) < 2 * MAX_WAITING and time.monotonic() < until:
            time.sleep(0.05)
    assert seen == [found for request in requests[1:] for found in engine.recall(request).items()]


def test_no_audit(ivf_bundle: Path) -> None:
    engine, seen = Engine.open(ivf_bundle), []
    worker = IdleWorker(lambda: True)
    audit = RecallAudit(worker, lambda part, recall: seen.append(part), every=0)
    with worker.running():
        audit.offer(engine, RecommendRequest(user_id="listener-000"))
        time.sleep(0.5)
    assert seen == []
