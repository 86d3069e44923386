"""The decision about a rollout, by the experiment of its present stage: to begin the next, to abort, or to wait."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from musix_runtime.clock import format_time
from musix_runtime.errors import ChangedRolloutError
from musix_runtime.feedback.events import DAY_MS
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.registry import experiments, rollouts
from musix_runtime.registry.registry import Registry
from musix_runtime.registry.rollouts import Rollout
from musix_trainer.loop import summary
from musix_trainer.loop.experiment import MIN_LISTENERS, Analysis, analyse

Action = Literal["advance", "abort", "wait"]


@dataclass(frozen=True)
class Decision:
    """What to do, and why."""

    action: Action
    reason: str


@dataclass(frozen=True)
class Step:
    """A rollout, what was decided about it and why, and whether that changed it."""

    rollout: Rollout
    action: Action
    reason: str
    changed: bool = False


def look(registry: Registry, name: str, store: FeedbackStore, now_ms: int) -> Step:
    """Decide about the latest rollout of `name`, and change nothing. Raises StoreError, FeedbackError."""
    return _consider(registry, rollouts.read(registry, name), store, now_ms)[0]


def step(registry: Registry, name: str, store: FeedbackStore, now_ms: int) -> Step:
    """Decide about the latest rollout of `name`, and carry that out. Raises StoreError, FeedbackError."""
    registry.history(name)
    with registry.settled(name):
        rollout = rollouts.read(registry, name)
    considered, evidence = _consider(registry, rollout, store, now_ms)
    if considered.action == "wait":
        return considered
    change = rollouts.advance if considered.action == "advance" else rollouts.abort
    try:
        changed = change(registry, name, now_ms, considered.reason, evidence, seen=considered.rollout)
    except ChangedRolloutError:
        return Step(rollouts.read(registry, name), "wait", "another command changed it meanwhile")
    return replace(considered, rollout=changed, changed=True)


def _consider(registry: Registry, rollout: Rollout, store: FeedbackStore, now_ms: int) -> tuple[Step, dict[str, Any]]:
    """Return what was decided about a rollout, and the analysis of its present stage as JSON."""
    if not rollout.goes_on:
        return Step(rollout, "wait", f"the rollout is {rollout.state}"), {}
    analysis = analyse(store, experiments.read(registry, rollout.name, rollout.experiment))
    decision = decide(rollout, analysis, now_ms)
    return Step(rollout, decision.action, decision.reason), summary.as_json(analysis)


def decide(rollout: Rollout, analysis: Analysis, now_ms: int) -> Decision:
    """Decide about a rollout by the analysis of its present stage.

    A guardrail that is crossed or a metric that is surely worse aborts, also while the rollout is held. The next stage
    begins when the present one has lasted its time, and the metric is surely not worse by more than `max_harm`.
    """
    crossed = [summary.guardrail_line(guardrail) for guardrail in analysis.guardrails if guardrail.crossed]
    if crossed:
        return Decision("abort", "; ".join(crossed))
    if analysis.verdict == "loss":
        return Decision("abort", analysis.reason)
    if rollout.state != "running":
        return Decision("wait", f"the rollout is {rollout.state}")
    if analysis.verdict == "broken":
        return Decision("wait", analysis.reason)
    if analysis.experiment.started_ms > now_ms + DAY_MS:
        began = format_time(analysis.experiment.started_ms)
        return Decision("abort", f"expected a stage that began before now, found {began}: a clock was wrong")
    remaining_ms = rollout.stage_ms - (now_ms - analysis.experiment.started_ms)
    if remaining_ms > 0:
        return Decision("wait", f"the stage lasts {remaining_ms / 3_600_000:.1f} h more")
    harm = _largest_harm(analysis)
    if harm is None:
        return Decision("wait", analysis.reason)
    if harm > rollout.max_harm:
        return Decision(
            "wait", f"{analysis.reason}: it may be worse by {harm:.3g}, expected at most {rollout.max_harm:g}"
        )
    return Decision("advance", analysis.reason)


def _largest_harm(analysis: Analysis) -> float | None:
    """Return by how much the metric may be worse than the control's; None while there are too few listeners."""
    result = analysis.metrics[analysis.experiment.metric]
    if result.difference is None or result.listeners < MIN_LISTENERS:
        return None
    bounds = result.difference.low, result.difference.high
    return max(-result.metric.better * bound for bound in bounds)
