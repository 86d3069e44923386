"""The retraining policy: one pure function from what is known now to what to do next."""

from dataclasses import dataclass
from typing import Literal

from musix_runtime.feedback.events import DAY_MS
from musix_trainer.loop.comparison import Difference, Estimate

EMERGENCY_SKIP_RATE = 0.40  # above it the version before is better than none
LEAST_PAUSE_MS = 3_600_000  # between two rollbacks, of which the loop looks after each
Action = Literal["roll back", "retrain", "advance", "abort", "wait"]  # advance and abort a rollout
Trigger = Literal["emergency", "request", "metric", "drift", "schedule"]


@dataclass(frozen=True)
class Policy:
    """When to act. Times are in ms."""

    every_ms: int = 30 * DAY_MS  # between two trainings, at most
    pause_ms: int = 7 * DAY_MS  # between two trainings, unless one is requested, and between two rollbacks, at least
    max_drop: float = 0.05  # of the share of tracks that are not skipped
    max_skip_rate: float = EMERGENCY_SKIP_RATE


@dataclass(frozen=True)
class State:
    """What the policy decides by."""

    now_ms: int
    first_ms: int  # when the first list that is stored was shown, now without any
    trained_ms: int | None  # when the latest training began, None if there was none
    previous: str | None  # the version that was live before
    rolled_back: bool  # whether a rollback, to the live version or refused, was the latest action
    rolled_back_ms: int | None  # when the latest rollback was done or refused
    busy: str | None  # the experiment or rollout that is running
    rollout_since_ms: int | None  # when the rollout that is running began
    listeners: int  # who were shown lists in the latest week
    skip_rate: Estimate | None  # of the live version's lists in the latest day
    skip_change: Difference | None  # that of the latest week, against the version's first four weeks
    alarms: tuple[str, ...]  # keys of drift alarms

    @property
    def age_ms(self) -> int:
        """The time since the latest training or the first list; none, where a clock was ahead."""
        return max(0, self.now_ms - (self.first_ms if self.trained_ms is None else self.trained_ms))


@dataclass(frozen=True)
class Decision:
    """What to do, what led to it, and why in words."""

    action: Action
    trigger: Trigger | None
    reason: str


def decide(state: State, policy: Policy, requested: bool = False) -> Decision:
    """Decide what to do.

    An emergency comes first: it rolls back whatever is running, and a training follows; soon after a rollback there is
    no other one, as then the version may not be what is wrong. Otherwise nothing is trained
    while listeners compare two versions, nor soon after the training before unless somebody requests it. A rollout that
    lasts as long as two of these times makes room for the next version.
    """
    emergency = state.skip_rate is not None and state.skip_rate.low > policy.max_skip_rate
    skips = f"skip rate {state.skip_rate}" if state.skip_rate else ""
    if emergency and state.previous and not _is_cooling_down(state, policy):
        return Decision("roll back", "emergency", f"{skips}, expected at most {100 * policy.max_skip_rate:g} %")
    age_ms = state.age_ms
    if state.busy and not _is_overdue(state, policy):
        return _wait(f"{state.busy} is running")
    if requested:
        return Decision("retrain", "request", "on request")
    if state.rolled_back:
        return Decision("retrain", "emergency", "after an emergency")
    if age_ms < policy.pause_ms:
        age = _days(age_ms)
        return _wait(f"{age} since the latest training or the first list, expected at least {_days(policy.pause_ms)}")
    if emergency:
        return Decision("retrain", "emergency", f"{skips}, and there is no version before to return to")
    if dropped := _dropped(state.skip_change, policy):
        return Decision("retrain", "metric", dropped)
    if state.alarms:
        return Decision("retrain", "drift", f"alarms of {', '.join(state.alarms)}")
    if age_ms >= policy.every_ms:
        return Decision("retrain", "schedule", f"{_days(age_ms)} since the latest training or the first list")
    return _wait(f"the next training is in {_days(policy.every_ms - age_ms)}")


def is_open(state: State, policy: Policy) -> bool:
    """Return whether `skip_change` and `alarms` can change the decision: they cannot while nothing may be trained."""
    waits = state.busy and not _is_overdue(state, policy)
    return not waits and not state.rolled_back and state.age_ms >= policy.pause_ms


def _is_cooling_down(state: State, policy: Policy) -> bool:
    """Return whether the latest rollback was a short time ago."""
    pause_ms = max(policy.pause_ms, LEAST_PAUSE_MS)
    return state.rolled_back_ms is not None and state.now_ms - state.rolled_back_ms < pause_ms


def _is_overdue(state: State, policy: Policy) -> bool:
    """Return whether a rollout has lasted too long."""
    since_ms = state.rollout_since_ms
    return since_ms is not None and state.now_ms - max(since_ms, state.trained_ms or 0) >= 2 * policy.every_ms


def _wait(reason: str) -> Decision:
    return Decision("wait", None, reason)


def _dropped(change: Difference | None, policy: Policy) -> str | None:
    """Return why the change is a drop of the tracks that are not skipped, None if that is not sure."""
    if change is None or change.low <= policy.max_drop * (1 - change.control):
        return None
    return f"skip rate {100 * change.treatment:.1f} %, in the first weeks {100 * change.control:.1f} %"


def _days(milliseconds: int) -> str:
    return f"{milliseconds / DAY_MS:.1f} days"
