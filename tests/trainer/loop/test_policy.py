"""The retraining policy, case by case."""

from dataclasses import replace

import pytest

from musix_runtime.feedback.events import DAY_MS
from musix_trainer.loop.comparison import Difference, Estimate
from musix_trainer.loop.policy import Policy, State, decide, is_open

POLICY = Policy()
QUIET = State(
    now_ms=100 * DAY_MS,
    first_ms=0,
    trained_ms=80 * DAY_MS,
    previous="1.0.0",
    rolled_back=False,
    rolled_back_ms=None,
    busy=None,
    rollout_since_ms=None,
    listeners=1000,
    skip_rate=Estimate(0.2, 0.18, 0.22, 1000),
    skip_change=Difference(0.2, 0.2, 0.0, -0.03, 0.03),
    alarms=(),
)
EMERGENCY = Estimate(0.5, 0.45, 0.55, 1000)
WORSE = Difference(0.2, 0.3, 0.1, 0.05, 0.15)


@pytest.mark.parametrize(
    ("changes", "action", "trigger"),
    [
        ({}, "wait", None),
        ({"trained_ms": 70 * DAY_MS}, "retrain", "schedule"),
        ({"trained_ms": 70 * DAY_MS + 1}, "wait", None),
        ({"skip_change": WORSE}, "retrain", "metric"),
        ({"skip_change": replace(WORSE, low=0.04)}, "wait", None),  # 5 % of the 80 % that are played are 4 points
        ({"alarms": ("energy",)}, "retrain", "drift"),
        ({"alarms": ("energy",), "trained_ms": 94 * DAY_MS}, "wait", None),
        ({"skip_change": WORSE, "busy": "experiment demo/1"}, "wait", None),
        ({"skip_rate": EMERGENCY}, "roll back", "emergency"),
        ({"skip_rate": replace(EMERGENCY, low=0.4)}, "wait", None),
        ({"skip_rate": EMERGENCY, "busy": "rollout demo/1"}, "roll back", "emergency"),
        ({"skip_rate": EMERGENCY, "trained_ms": 99 * DAY_MS}, "roll back", "emergency"),
        ({"skip_rate": EMERGENCY, "previous": None}, "retrain", "emergency"),
        ({"skip_rate": EMERGENCY, "previous": None, "trained_ms": 99 * DAY_MS}, "wait", None),
        ({"skip_rate": EMERGENCY, "rolled_back": True, "rolled_back_ms": 94 * DAY_MS}, "retrain", "emergency"),
        ({"skip_rate": EMERGENCY, "rolled_back": True, "rolled_back_ms": 93 * DAY_MS}, "roll back", "emergency"),
        ({"rolled_back": True, "trained_ms": 99 * DAY_MS}, "retrain", "emergency"),
        ({"skip_rate": EMERGENCY, "rolled_back_ms": 93 * DAY_MS}, "roll back", "emergency"),
        ({"skip_rate": EMERGENCY, "rolled_back_ms": 94 * DAY_MS}, "retrain", "emergency"),  # one rollback in a week
        ({"skip_rate": EMERGENCY, "rolled_back_ms": 94 * DAY_MS, "trained_ms": 94 * DAY_MS}, "wait", None),
        ({"skip_rate": None, "skip_change": None}, "wait", None),
        ({"busy": "rollout demo/1", "rollout_since_ms": 80 * DAY_MS}, "wait", None),
        ({"busy": "rollout demo/1", "rollout_since_ms": 80 * DAY_MS, "trained_ms": 40 * DAY_MS}, "wait", None),
        ({"busy": "rollout demo/1", "rollout_since_ms": 40 * DAY_MS, "trained_ms": 40 * DAY_MS}, "retrain", "schedule"),
        # The store keeps 35 days, so that its first list is younger than the rollout.
        (
            {"busy": "rollout demo/1", "rollout_since_ms": 40 * DAY_MS, "trained_ms": None, "first_ms": 65 * DAY_MS},
            "retrain",
            "schedule",
        ),
        ({"trained_ms": None, "first_ms": 70 * DAY_MS}, "retrain", "schedule"),
        ({"trained_ms": None, "first_ms": 71 * DAY_MS}, "wait", None),
        ({"busy": "experiment demo/1", "trained_ms": 70 * DAY_MS}, "wait", None),
    ],
)
def test_decision(changes, action, trigger):
    decision = decide(replace(QUIET, **changes), POLICY)
    assert (decision.action, decision.trigger) == (action, trigger)


def test_a_request_waits_for_a_running_comparison_but_for_no_pause():
    young = replace(QUIET, trained_ms=99 * DAY_MS)
    assert decide(young, POLICY, requested=True).trigger == "request"
    waits = decide(replace(young, busy="rollout demo/3"), POLICY, requested=True)
    assert (waits.action, waits.reason) == ("wait", "rollout demo/3 is running")


@pytest.mark.parametrize(
    ("changes", "is_it"),
    [
        ({}, True),
        ({"trained_ms": 94 * DAY_MS}, False),
        ({"rolled_back": True}, False),
        ({"busy": "experiment demo/1"}, False),
        ({"busy": "rollout demo/1", "rollout_since_ms": 80 * DAY_MS}, False),
        ({"busy": "rollout demo/1", "rollout_since_ms": 40 * DAY_MS, "trained_ms": 40 * DAY_MS}, True),
    ],
)
def test_what_is_read_only_if_it_can_change_the_decision(changes, is_it):
    state = replace(QUIET, **changes)
    assert is_open(state, POLICY) is is_it
    changed = decide(replace(state, skip_change=WORSE, alarms=("energy",)), POLICY) != decide(state, POLICY)
    assert changed is is_it


def test_reasons_are_sentences_with_figures():
    assert decide(replace(QUIET, skip_rate=EMERGENCY), POLICY).reason == (
        "skip rate 50.0 % (45.0 to 55.0 %), expected at most 40 %"
    )
    assert decide(QUIET, POLICY).reason == "the next training is in 10.0 days"
