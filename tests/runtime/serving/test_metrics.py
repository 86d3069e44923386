"""Metrics of the server itself: what exists from the start, predictions, versions and processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from musix_runtime import Engine, ModelManager, Registry, create_app
from musix_runtime.models.mood import MOODS
from musix_runtime.registry import experiments
from musix_runtime.serving.process_metrics import WorkerProcesses
from tests.bundle_variants import flip, plant, variant

TRACKS = [{"trackId": f"simulated{i:013d}"} for i in (1, 2, 3)]


@pytest.fixture(scope="module")
def engine(small_bundle: Path) -> Engine:
    return Engine.open(small_bundle)


def figures(client: TestClient) -> dict[str, float]:
    lines = (line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    return {name: float(value) for name, value in lines}


def test_series_exist_from_the_start(engine: Engine) -> None:
    found = figures(TestClient(create_app(engine)))
    for status in (200, 500, 503):
        assert found[f'musix_requests_total{{route="/api/ml/recommend",status="{status}"}}'] == 0
    assert found['musix_request_seconds_bucket{le="0.1",route="/api/ml/classify"}'] == 0
    assert found['musix_exposures_total{result="dropped"}'] == 0
    assert found['musix_recommendations_total{source="popular"}'] == 0
    assert found["musix_ready"] == 1
    assert found["musix_bundle_refused"] == found["musix_registry_versions"] == 0
    assert found["process_resident_memory_bytes"] > 10**7


def test_classified_tracks_are_counted_by_genre_and_mood(engine: Engine) -> None:
    client = TestClient(create_app(engine))
    before = figures(client)
    genres = {name for name in before if name.startswith("musix_predicted_genres_total{")}
    moods = {name for name in before if name.startswith("musix_predicted_moods_total{")}
    assert len(genres) == len(engine.bundle.manifest.families)
    assert len(moods) == len(MOODS)
    assert {before[name] for name in genres | moods} == {0}
    single = [client.post("/api/ml/classify", json=track).json()["data"] for track in TRACKS]
    client.post("/api/ml/classify/batch", json=TRACKS)
    after = figures(client)
    assert sum(after[name] for name in genres) == sum(after[name] for name in moods) == 6
    top = single[0]["genres"][0]["name"]
    expected = 2 * sum(answer["genres"][0]["name"] == top for answer in single)
    assert after[f'musix_predicted_genres_total{{genre="{top}"}}'] == expected
    assert after[f'musix_predicted_moods_total{{mood="{single[0]["mood"]["primary"]}"}}'] > 0


def test_versions_that_are_refused_are_counted(small_bundle: Path, tmp_path: Path) -> None:
    store = Registry(tmp_path / "store")
    for version in ("1.0.0", "1.1.0"):
        store.publish(variant(small_bundle, tmp_path / version, version))
    manager = ModelManager.open(store.path)
    client = TestClient(create_app(manager))
    assert (figures(client)["musix_bundle_refused"], figures(client)["musix_registry_versions"]) == (0, 2)
    plant(variant(small_bundle, tmp_path / "1.2.0", "1.2.0"), store.path, "demo", broken="mood/model.onnx")
    manager.refresh()
    assert (figures(client)["musix_bundle_refused"], figures(client)["musix_registry_versions"]) == (1, 3)
    store.publish(variant(small_bundle, tmp_path / "1.3.0", "1.3.0"))
    manager.refresh()
    assert (figures(client)["musix_bundle_refused"], figures(client)["musix_registry_versions"]) == (0, 4)


def test_a_refused_version_of_an_experiment_is_counted(small_bundle: Path, tmp_path: Path) -> None:
    store = Registry(tmp_path / "store")
    store.publish(variant(small_bundle, tmp_path / "1.0.0", "1.0.0"))
    candidate = store.publish(variant(small_bundle, tmp_path / "1.1.0", "1.1.0"), candidate=True)
    manager = ModelManager.open(store.path)
    experiments.start(store, "demo", treatment="1.1.0", share=0.5, listeners=1000, now_ms=1)
    flip(candidate / "mood" / "model.onnx")
    manager.refresh()
    assert figures(TestClient(create_app(manager)))["musix_bundle_refused"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_processes_of_all_workers_are_told_apart(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid in (os.getpid(), os.getppid(), ended.pid):
        for kind in ("counter", "histogram"):
            (tmp_path / f"{kind}_{pid}.db").touch()
    families = {family.name: family for family in WorkerProcesses(tmp_path).collect()}
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "process_open_fds"} <= set(families)
    for family in families.values():
        assert {sample.labels["pid"] for sample in family.samples} == {str(os.getpid()), str(os.getppid())}
