"""Metrics of the listeners of an experiment, on events whose figures can be counted by hand."""

import polars as pl
import pytest

from musix_trainer.loop.experiment import EVENT_COLUMNS
from musix_trainer.loop.listening import METRICS, attribute, listeners_of, metric_sums

MINUTE_MS = 60_000
FIRST_MS = 100 * MINUTE_MS
LISTS = pl.DataFrame(
    [
        ("ann", "a1", FIRST_MS, "treatment", [{"id": f"t{i}"} for i in range(6)] * 2),
        ("ann", "a2", FIRST_MS + 1, "treatment", [{"id": "t1"}]),
        ("bob", "b1", FIRST_MS, "control", [{"id": "t1"}, {"id": "t4"}]),
        ("eve", "e1", FIRST_MS, "control", []),
    ],
    schema=["user_id", "list_id", "time_ms", "variant", "tracks"],
    orient="row",
)


def event(user, minute, action, track, list_id=None, ms_played=None, session=None):
    return user, FIRST_MS + int(minute * MINUTE_MS), session, list_id, track, action, ms_played


def sums(key, *events):
    """Return numerators and denominators of ann, bob and eve, and what is known from before."""
    table = attribute(pl.DataFrame(events, schema=EVENT_COLUMNS, orient="row"), LISTS)
    found = metric_sums(METRICS[key], listeners_of(LISTS), table)
    assert found.treated.tolist() == [True, False, False]
    return found.numerator.tolist(), found.denominator.tolist(), found.before.tolist()


def test_skip_rate():
    """A skip after 30 s is none; a track counts once for each list; what no list showed does not count."""
    found = sums(
        "skip_rate",
        event("ann", 1, "skipped", "t1", "a1", 5_000),
        event("ann", 2, "skipped", "t1", "a1", 5_000),
        event("ann", 2, "skipped", "t1", "a2"),
        event("ann", 3, "skipped", "t2", "a1", 30_000),
        event("ann", 4, "played", "t3", "a1", 200_000),
        event("ann", 5, "skipped", "t4", None, 1_000),
        event("bob", 5, "skipped", "t4", "a1", 1_000),
        event("bob", 5, "clicked", "t4", "b1"),
    )
    assert found == ([2, 0, 0], [4, 0, 0], [0, 0, 0])


def test_a_track_of_a_list_counts_once_and_as_skipped_if_any_of_its_events_is():
    found = sums(
        "skip_rate",
        *(event("bob", minute, "played", "t1", "b1") for minute in range(1000)),
        event("bob", 3, "skipped", "t1", "b1", 1_000),
        event("bob", 4, "played", "t4", "b1"),
    )
    assert found == ([0, 1, 0], [0, 2, 0], [0, 0, 0])


def test_events_about_tracks_that_the_list_does_not_have_do_not_count():
    skips = [event("bob", 1, "skipped", f"other{i}", list_id, 1_000) for i in range(9) for list_id in ("b1", "a1")]
    played = event("bob", 1, "played", "t1", "b1")
    assert sums("skip_rate", played, *skips) == ([0, 0, 0], [0, 1, 0], [0, 0, 0])
    assert sums("save_rate", played, event("bob", 1, "saved", "other", "b1")) == ([0, 0, 0], [0, 1, 0], [0, 0, 0])


def test_save_rate():
    found = sums(
        "save_rate",
        event("ann", 1, "played", "t1", "a1"),
        event("ann", 2, "saved", "t1", "a1"),
        event("ann", 3, "saved", "t2", "a1"),
        event("bob", 1, "played", "t1", "b1"),
    )
    assert found == ([1, 0, 0], [1, 1, 0], [0, 0, 0])


def test_session_tracks():
    """Sessions are told apart by their ids, and by a gap of more than 30 minutes where they have none."""
    found = sums(
        "session_tracks",
        event("ann", 1, "played", "t1"),
        event("ann", 30, "skipped", "t2"),
        event("ann", 60, "played", "t3"),
        event("ann", 91, "played", "t4"),
        event("bob", 1, "played", "t1", session="s1"),
        event("bob", 2, "played", "t2", session="s2"),
        event("bob", 99, "played", "t3", session="s2"),
        event("eve", 99, "played", "t3"),
        event("eve", 100, "played", "t4", session="s1"),
        event("eve", 101, "played", "t5"),  # two devices by turns
        event("eve", 102, "played", "t6", session="s1"),
    )
    assert found == ([3, 3, 4], [2, 2, 2], [0, 0, 0])


def test_a_session_has_a_hundred_tracks_at_most():
    events = [event("eve", i / 100, "played", f"t{i}") for i in range(10_000)]
    assert sums("session_tracks", *events) == ([0, 0, 100], [0, 0, 1], [0, 0, 0])
    others = [event("eve", 200 + i, "played", "t1", session=f"s{i}") for i in range(9)]
    assert sums("session_tracks", *events, *others) == ([0, 0, 109], [0, 0, 10], [0, 0, 0])


def test_repeat_rate():
    found = sums(
        "repeat_rate",
        event("ann", 1, "played", "t1", "a1"),
        event("ann", 900, "played", "t1"),
        event("ann", 2, "played", "t2", "a1"),
        event("ann", 3, "played", "t3"),
        event("ann", 4, "played", "t3"),
    )
    assert found == ([1, 0, 0], [2, 0, 0], [0, 0, 0])


@pytest.mark.parametrize("key", METRICS)
def test_no_events(key):
    assert sums(key) == ([0, 0, 0], [0, 0, 0], [0, 0, 0])


def test_what_came_before_the_first_list_is_known_from_before():
    """All skipped 3 of 8 tracks; ann 2 of 4, which is 0.5 of 8 more, and bob 1 of 4."""
    found = sums(
        "skip_rate",
        *(event("ann", -9, "skipped" if i < 2 else "played", f"t{i}", "old", 9) for i in range(4)),
        *(event("bob", -9, "skipped" if i < 1 else "played", f"t{i}", "old", 9) for i in range(4)),
        event("ann", -9, "skipped", "t9", None, 9),
        event("ann", 1, "played", "t1", "a1"),
    )
    assert found == ([0, 0, 0], [1, 0, 0], [1 / 16, -1 / 16, 0])
