"""Reports of monitoring: how they are stored, answered, and shown as metrics."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import insert
from starlette.testclient import TestClient

from musix_runtime import ModelManager, Registry, create_app
from musix_runtime.clock import now_ms
from musix_runtime.errors import FeedbackError
from musix_runtime.feedback import database as databases
from musix_runtime.feedback.reports import (
    Alarm,
    CalibrationDrift,
    Figure,
    InputDrift,
    LiveFigures,
    Report,
    Shares,
    Window,
)
from musix_runtime.feedback.store import KEPT_REPORTS, FeedbackStore
from musix_runtime.feedback.tables import REPORTS
from musix_runtime.serving.idle_worker import IdleWorker
from musix_runtime.serving.report_metrics import ReportMetrics, ReportReader
from musix_runtime.settings import Settings

ADMIN = {"authorization": "Bearer secret"}
PATH = "/api/ml/monitoring"
FIGURES = LiveFigures(100, 300, 0.25, Figure(0.4, 0.3, 0.5), Figure(0.45, 0.42, 0.48), None, None, None)
REPORT = Report(
    name="small",
    version="1.0.0",
    time_ms=1,
    reference=Window(0, 1, 100, 1000, 0),
    live=Window(1, 2, 100, 1000, 0),
    drift={"energy": InputDrift(0.4, 0.3, 1.5), "key": InputDrift(None, None, None)},
    calibration=CalibrationDrift(0.05, 0.01, 100, 500),
    bundles={"1.0.0": FIGURES},
    variants={"none": FIGURES},
    shown=Shares({"rock": 1.0}, {"happy": 1.0}),
    played=Shares({"rock": 1.0}, {"happy": 1.0}),
    alarms=[Alarm("drift/energy", "energy: ..."), Alarm("drift/genre", "genre: ..."), Alarm("emergency", "...")],
)
SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def test_the_last_reports_of_each_name_are_kept(store: FeedbackStore, database: str) -> None:
    assert store.latest_report("small") is None
    store.add_report(replace(REPORT, name="other"))
    for time_ms in range(KEPT_REPORTS + 2):
        store.add_report(replace(REPORT, time_ms=time_ms))
    assert store.latest_report("small") == replace(REPORT, time_ms=KEPT_REPORTS + 1)
    assert store.latest_report("other") == replace(REPORT, name="other")
    engine = databases.connect(databases.parse_url(database))
    with engine.connect() as connection:
        times = [row.time_ms for row in connection.execute(REPORTS.select().order_by(REPORTS.c.id))]
    engine.dispose()
    assert times == [1, *range(2, KEPT_REPORTS + 2)]


@SQLITE
def test_a_report_of_another_program_is_refused(store: FeedbackStore, database: str) -> None:
    engine = databases.connect(databases.parse_url(database))
    with engine.begin() as connection:
        connection.execute(insert(REPORTS), {"name": "small", "time_ms": 1, "content": "{}"})
    engine.dispose()
    with pytest.raises(FeedbackError, match="reports: expected one of this program, found: Object missing required"):
        store.latest_report("small")


@pytest.fixture
def client(small_bundle: Path, database: str, tmp_path: Path) -> Iterator[TestClient]:
    """A server of a registry, which has read a report."""
    registry = Registry(tmp_path / "registry")
    registry.publish(small_bundle)
    manager = ModelManager.open(registry.path)
    with TestClient(create_app(manager, Settings(feedback=database, admin_token="secret"))) as client:
        yield client


@SQLITE
def test_the_administrator_reads_the_latest_report(client: TestClient, store: FeedbackStore) -> None:
    missing = client.get(PATH, headers=ADMIN)
    assert missing.status_code == 404
    assert missing.json()["error"]["message"].startswith("reports: expected one about small, found none; use: musix ")
    store.add_report(replace(REPORT, time_ms=now_ms() - 60_000))
    data = client.get(PATH, headers=ADMIN).json()["data"]
    assert 60 <= data["ageSeconds"] < 120
    assert data["report"]["drift"]["energy"] == {"kl": 0.4, "low": 0.3, "wasserstein": 1.5}
    assert data["report"]["alarms"][0] == {"key": "drift/energy", "sentence": "energy: ..."}
    store.add_report(replace(REPORT, time_ms=now_ms() + 60_000))  # by a machine whose clock is ahead
    assert client.get(PATH, headers=ADMIN).json()["data"]["ageSeconds"] == 0
    assert PATH in client.get("/openapi.json").json()["paths"]
    assert client.get(PATH).status_code == 401
    assert client.get(PATH, headers={"authorization": "Bearer other"}).status_code == 403


def figures(client: TestClient) -> dict[str, float]:
    lines = (line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    return {name: float(value) for name, value in lines}


def until(client: TestClient, condition: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    end = time.monotonic() + 20
    while not condition(found := figures(client)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


@SQLITE
def test_the_latest_report_is_shown_as_metrics(store: FeedbackStore, client: TestClient) -> None:
    before = figures(client)
    store.add_report(replace(REPORT, time_ms=now_ms() - 60_000))
    with TestClient(client.app) as restarted:  # which reads the report at its start
        found = until(restarted, lambda found: not math.isnan(found["musix_report_age_seconds"]))
    assert set(before) <= set(found)
    assert math.isnan(before["musix_report_age_seconds"])
    assert before['musix_alarms{kind="drift"}'] == 0
    assert 60 <= found["musix_report_age_seconds"] < 120
    assert found['musix_drift{input="energy"}'] == 0.4
    assert math.isnan(found['musix_drift{input="key"}'])
    assert math.isnan(found['musix_drift{input="mood"}'])
    assert found["musix_calibration_error"] == 0.05
    assert found['musix_alarms{kind="drift"}'] == 2
    assert found['musix_alarms{kind="emergency"}'] == 1
    assert found['musix_live_skip_rate{variant="none"}'] == 0.45
    assert math.isnan(found['musix_live_skip_rate{variant="treatment"}'])
    assert found['musix_live_listeners{variant="none"}'] == 100


@SQLITE
def test_a_report_about_another_version_is_not_shown_as_metrics(store: FeedbackStore, small_bundle: Path) -> None:
    """As after a rollback: its alarms are not about the version that answers."""
    metrics = ReportMetrics()
    reader = ReportReader(store, ModelManager.open(small_bundle), IdleWorker(lambda: True), metrics)
    for version, shown in (("1.0.0", True), ("1.1.0", False)):
        store.add_report(replace(REPORT, version=version, time_ms=now_ms()))
        reader.read()
        assert (metrics.report is not None) == shown
