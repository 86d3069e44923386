"""What the retraining policy decides by, of feedback whose figures are known."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from musix_runtime.feedback.events import DAY_MS, Event
from musix_runtime.feedback.exposures import Exposure
from musix_runtime.feedback.store import FeedbackStore
from musix_trainer.loop.state import read_skip_change
from tests.bundle_variants import copy_registry

DAYS, LISTENERS, TRACKS = 35, 60, 20
TRACKS_OF_LIST = json.dumps([{"id": f"t{i}"} for i in range(TRACKS)])


def exposure(user: str, day: int) -> Exposure:
    return Exposure(f"{user} {day}", day * DAY_MS, user, "demo-1.0.0", "", "hybrid", "{}", TRACKS_OF_LIST)


def event(shown: Exposure, track: int, action: str) -> Event:
    event_id, time_ms = f"{shown.list_id} {track}", shown.time_ms + 1000
    return Event(event_id, time_ms, time_ms, shown.user_id, None, shown.list_id, f"t{track}", 1, action, 0)


def test_a_week_is_compared_with_weeks_of_the_same_listeners(published: Path, tmp_path: Path) -> None:
    """Nothing changed: half of the listeners skip one track a week, the others play twenty a day."""
    registry = copy_registry(published, tmp_path / "registry", ["1.0.0"])
    lists = [exposure(f"{number}", day) for day in range(DAYS) for number in range(LISTENERS)]
    heavy = [shown for shown in lists if int(shown.user_id) % 2]
    light = [shown for shown in lists if int(shown.user_id) % 2 == 0 and shown.time_ms % (7 * DAY_MS) == 0]
    plays = [event(shown, track, "played") for shown in heavy for track in range(TRACKS)]
    with closing(FeedbackStore.open(f"sqlite:///{tmp_path / 'feedback.db'}")) as store:
        store.add_exposures(lists)
        store.add_events([*plays, *(event(shown, 0, "skipped") for shown in light)])
        change = read_skip_change(registry, "demo", store, DAYS * DAY_MS)
    assert change is not None
    assert change.value == pytest.approx(0, abs=0.002)
