"""Decisions about a rollout by the analysis of its present stage, and the command that carries them out."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from musix_runtime import Registry
from musix_runtime.cli.main import musix
from musix_runtime.feedback.events import DAY_MS, Event
from musix_runtime.feedback.exposures import Exposure
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.registry import experiments, rollouts
from musix_runtime.registry.experiments import Experiment
from musix_runtime.registry.rollouts import Rollout
from musix_trainer.loop.comparison import Difference
from musix_trainer.loop.experiment import Analysis, Guardrail, MetricResult
from musix_trainer.loop.listening import METRICS
from musix_trainer.loop.rollout import Decision, decide, step
from perf.listeners import simulate
from tests.bundle_variants import copy_registry

MUSIX = Path(sys.executable).with_name("musix")
ROLLOUT = Rollout(
    name="demo",
    number=1,
    version="1.1.0",
    stages=(0.2, 1),
    stage=0,
    stage_ms=1000,
    listeners=400,
    metric="skip_rate",
    max_harm=0.02,
    experiment=1,
    state="running",
    journal=(),
)
EXPERIMENT = Experiment(
    name="demo",
    number=1,
    control="1.0.0",
    treatment="1.1.0",
    share=0.2,
    listeners=400,
    metric="skip_rate",
    salt="demo/rollout/1",
    rollout=1,
    started_ms=5000,
)


def analysis(
    low: float,
    high: float,
    verdict: str = "no difference",
    metric: str = "skip_rate",
    listeners: int = 100,
    **fields: Any,
) -> Analysis:
    middle = (low + high) / 2
    result = MetricResult(METRICS[metric], Difference(0.2, 0.2 + middle, middle, low, high), 0.01, listeners)
    values = {"treatment_listeners": 100, "control_listeners": 300, "guardrails": (), "reason": "the interval"} | fields
    experiment = replace(EXPERIMENT, metric=metric)
    return Analysis(experiment=experiment, metrics={metric: result}, verdict=verdict, **values)  # type: ignore[arg-type]


CROSSED = Guardrail("error_rate", 0.0, 0.1, crossed=True)


@pytest.mark.parametrize(
    ("found", "now_ms", "state", "action"),
    [
        (analysis(-0.01, 0.01), 6000, "running", "advance"),
        (analysis(-0.01, 0.01), 5999, "running", "wait"),  # the stage is not over
        (analysis(-0.01, 0.01), 6000, "held", "wait"),
        (analysis(-0.01, 0.01), 5000 - 2 * DAY_MS, "running", "abort"),  # a clock was wrong when it began
        (analysis(-0.03, 0.03), 6000, "running", "wait"),  # it may be worse by 0.03
        (analysis(-0.09, -0.03, "win"), 6000, "running", "advance"),
        (analysis(0.005, 0.015, "loss"), 5000, "running", "abort"),
        (analysis(0.005, 0.015, "loss"), 5000, "held", "abort"),
        (analysis(-0.09, -0.03, "win", guardrails=(CROSSED,)), 6000, "running", "abort"),
        (analysis(-0.01, 0.01, "broken"), 6000, "running", "wait"),
        (analysis(-0.01, 0.01, listeners=49), 6000, "running", "wait"),
        (analysis(-0.01, 0.05, metric="save_rate"), 6000, "running", "advance"),  # more saves are no harm
        (analysis(-0.05, 0.01, metric="save_rate"), 6000, "running", "wait"),
    ],
)
def test_decision(found: Analysis, now_ms: int, state: Any, action: str) -> None:
    assert decide(replace(ROLLOUT, state=state), found, now_ms).action == action


def test_a_crossed_guardrail_is_named_with_its_figures() -> None:
    slow = Guardrail("p95_ms", 200.0, 150.0, crossed=True)
    reason = decide(ROLLOUT, analysis(-0.01, 0.01, guardrails=(CROSSED, slow)), 6000).reason
    assert reason == (
        "failed requests: 10.00 % against 0.00 %, too high; P95 of an answer: 150.0 ms against 200.0 ms, too high"
    )


@pytest.fixture
def registry(published: Path, tmp_path: Path) -> Registry:
    """A registry with a rollout of 1.1.0 at half of the listeners, which is due to be live."""
    registry = copy_registry(published, tmp_path / "store", ["1.0.0"], candidates=("1.1.0",))
    rollouts.start(registry, "demo", "1.1.0", stages=(0.5, 1), stage_ms=0, listeners=400, now_ms=10**12, max_harm=0.1)
    return registry


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("effect", "code", "live", "state", "output"),
    [
        (
            0.0,
            0,
            "1.1.0",
            "finished",
            "rollout demo/1: 1.1.0 for 100% of the listeners, finished: skip rate: difference between ",
        ),
        (
            0.2,
            0,
            "1.0.0",
            "aborted",
            "rollout demo/1: 1.1.0 for 0% of the listeners, aborted: skip rate: difference between ",
        ),
        (None, 5, "1.0.0", "running", "rollout demo/1 waits: sqlite:///"),
    ],
)
def test_step(
    registry: Registry, store: FeedbackStore, effect: float | None, code: int, live: str, state: str, output: str
) -> None:
    lists: list[Exposure] = []
    done: list[Event] = []
    for shown, events in simulate(experiments.read(registry, "demo"), 400 if effect is not None else 0, 5, effect or 0):
        lists += shown
        done += events
    store.add_exposures(lists)
    store.add_events(done)
    arguments = [MUSIX, "rollout", "step", registry.path, "demo", "--feedback", store.name]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout[: len(output)], result.stderr) == (code, output, "")
    assert registry.history("demo")[0] == live
    rollout = rollouts.read(registry, "demo")
    assert rollout.state == state
    if effect is not None:
        assert rollout.journal[-1].evidence["metrics"]["skip_rate"]["difference"] == pytest.approx(effect, abs=0.05)
        again = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert (again.returncode, again.stdout) == (5, f"rollout demo/1 is {state}\n")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("stage", "live", "state", "reason"),
    [
        (0, "1.0.0", "running", "expected lists of experiment demo/1, found none"),
        (1, "1.1.0", "finished", "the rollout is finished"),
    ],
)
def test_step_finishes_what_a_killed_process_began(
    registry: Registry, store: FeedbackStore, stage: int, live: str, state: str, reason: str
) -> None:
    folder = registry.folder("demo")
    rollouts.FILES.write(folder, replace(rollouts.read(registry, "demo"), stage=stage))
    if stage == 0:
        (folder / "experiments" / "1.json").unlink()  # as after a start that was killed
    done = step(registry, "demo", store, 10**12 + 1)
    assert (done.rollout.state, done.changed, registry.history("demo")[0]) == (state, False, live)
    assert reason in done.reason
    experiment = experiments.read(registry, "demo")
    assert (experiment.rollout, experiment.stopped_ms is None) == (1, state == "running")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_of_steps_at_once_one_changes_the_rollout(
    registry: Registry, store: FeedbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decision is about one stage, so it never begins the stage after the next."""
    stages = replace(rollouts.read(registry, "demo"), stages=(0.2, 0.4, 0.6, 1))
    rollouts.FILES.write(registry.folder("demo"), stages)
    everyone = threading.Barrier(4)

    def decide_at_once(*given: Any) -> Decision:
        everyone.wait(60)
        return Decision("advance", "no worse")

    monkeypatch.setattr("musix_trainer.loop.rollout.decide", decide_at_once)
    with ThreadPoolExecutor(4) as threads:
        steps = [*threads.map(lambda _: step(registry, "demo", store, 10**12 + 1), range(4))]
    assert sorted(each.changed for each in steps) == [False, False, False, True]
    assert {each.reason for each in steps if not each.changed} == {"another command changed it meanwhile"}
    assert rollouts.read(registry, "demo").stage == 1


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_step_without_a_rollout_has_nothing_to_do(published: Path, store: FeedbackStore) -> None:
    """As of a timer that was installed before the first rollout."""
    done = CliRunner().invoke(musix, ["rollout", "step", str(published), "demo", "--feedback", store.name])
    assert (done.exit_code, done.stdout) == (5, "demo has no rollout\n")
