import threading
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from musix_runtime.errors import FeedbackError
from musix_runtime.feedback import exposures
from musix_runtime.feedback.events import DAY_MS
from musix_runtime.feedback.exposures import Exposure, ExposureWriter
from musix_runtime.feedback.store import FeedbackStore
from tests.runtime.feedback.test_store import exposure


class Results:
    """Counts exposures by result."""

    def __init__(self) -> None:
        self.by_result: Counter[str] = Counter()

    def count(self, result: str, number: int) -> None:
        self.by_result[result] += number


class BrokenStore:
    """A store whose writes fail while `broken`."""

    def __init__(self) -> None:
        self.broken = True
        self.deletions: list[int] = []

    def add_exposures(self, exposures: Sequence[Exposure]) -> int:
        if self.broken:
            raise FeedbackError("feedback: expected a database that answers, found none")
        return len(exposures)

    def delete_before(self, time_ms: int) -> int:
        self.deletions.append(time_ms)
        return 0


def test_all_exposures_are_written_before_the_end(store: FeedbackStore) -> None:
    results = Results()
    writer = ExposureWriter(store, results.count)
    with writer.running():
        for i in range(1203):
            writer.add(exposure(f"{i}"))
    assert results.by_result == {"written": 1203, "refused": 0}
    assert [item.list_id for item in store.exposures()] == [f"{i}" for i in range(1203)]


def test_exposures_are_written_while_the_server_runs(store: FeedbackStore) -> None:
    writer = ExposureWriter(store, Results().count)
    with writer.running():
        writer.add(exposure("1"))
        end = time.monotonic() + 20
        while not store.exposures():
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_full_queue_drops_and_counts(store: FeedbackStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposures, "QUEUE_LIMIT", 5)
    results = Results()
    writer = ExposureWriter(store, results.count)
    with writer.running():
        for i in range(8):
            writer.add(exposure(f"{i}"))
        assert results.by_result == {"dropped": 3}
    assert results.by_result == {"dropped": 3, "written": 5, "refused": 0}
    assert [item.list_id for item in store.exposures()] == list("01234")


def test_exposures_of_forgotten_users_are_refused(store: FeedbackStore) -> None:
    store.forget("ann", 0)
    results = Results()
    writer = ExposureWriter(store, results.count)
    with writer.running():
        writer.add(exposure("1", "ann"))
        writer.add(exposure("2", "bob"))
    assert results.by_result == {"refused": 1, "written": 1}


def test_a_failing_database_drops_and_counts_until_it_answers_again() -> None:
    broken, results = BrokenStore(), Results()
    writer = ExposureWriter(broken, results.count)
    with writer.running():
        for i in range(1100):
            writer.add(exposure(f"{i}"))
    assert results.by_result == {"dropped": 1100}
    broken.broken = False
    with writer.running():
        writer.add(exposure("last"))
    assert results.by_result == {"written": 1, "refused": 0, "dropped": 1100}


def test_what_no_thread_would_write_is_dropped_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """As below another application whose lifespan does not enter that of ours."""
    results = Results()
    writer = ExposureWriter(BrokenStore(), results.count)
    for i in range(3):
        writer.add(exposure(f"{i}"))
    assert results.by_result == {"dropped": 3}
    (line,) = caplog.messages
    assert line.endswith("use: async with app.router.lifespan_context(app)")


def test_old_feedback_is_deleted_at_most_once_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposures, "WRITE_INTERVAL_S", 0.001)
    broken = BrokenStore()
    before = time.time_ns() // 1_000_000
    with ExposureWriter(broken, Results().count, keep_days=2).running():
        threading.Event().wait(0.2)
    assert len(broken.deletions) == 1
    assert 0 <= broken.deletions[0] - (before - 2 * DAY_MS) < DAY_MS


def test_nothing_is_deleted_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposures, "WRITE_INTERVAL_S", 0.001)
    broken = BrokenStore()
    with ExposureWriter(broken, Results().count).running():
        threading.Event().wait(0.1)
    assert broken.deletions == []
