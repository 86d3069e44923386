"""Analysis of experiments by what a feedback store holds, on simulated listeners with planted differences."""

import json
import re
from functools import cache
from itertools import chain

import msgspec
import pytest

from musix_runtime.feedback.events import Event
from musix_runtime.feedback.exposures import Exposure
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.registry.experiments import Experiment
from musix_trainer.loop import summary
from musix_trainer.loop.comparison import Difference
from musix_trainer.loop.experiment import MetricResult, _read_lists, analyse
from musix_trainer.loop.listening import METRICS
from perf.listeners import simulate

EXPERIMENT = Experiment(
    name="demo",
    number=1,
    control="1.0.0",
    treatment="1.1.0",
    share=0.5,
    listeners=400,
    metric="skip_rate",
    salt="demo/1",
    started_ms=0,
)
LISTENERS, LISTS = 400, 6
SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@cache
def simulated(effect: float = 0.0) -> tuple[list[Exposure], list[Event]]:
    """Return the lists and events of listeners with a planted effect on skips."""
    shown, events = zip(*simulate(EXPERIMENT, LISTENERS, LISTS, effect), strict=True)
    return list(chain(*shown)), list(chain(*events))


def fill(store: FeedbackStore, effect: float = 0.0, **fields: object) -> None:
    """Store simulated lists and events, the lists with other values of some fields."""
    shown, events = simulated(effect)
    store.add_exposures([msgspec.structs.replace(exposure, **fields) for exposure in shown])
    store.add_events(events)


@pytest.mark.parametrize(
    ("database", "effect", "verdict"),
    [("sqlite", -0.08, "win"), ("postgresql", 0.08, "loss"), ("sqlite", 0.0, "no difference")],
    indirect=["database"],
)
def test_verdict_on_a_planted_effect(store, effect, verdict):
    fill(store, effect=effect)
    analysis = analyse(store, EXPERIMENT)
    difference = analysis.metrics["skip_rate"].difference
    assert analysis.verdict == verdict
    assert difference.low < effect < difference.high
    assert analysis.treatment_listeners + analysis.control_listeners == LISTENERS
    assert not any(guardrail.crossed for guardrail in analysis.guardrails)
    *_, failed, p95, reason = summary.lines(analysis)
    assert re.fullmatch(
        rf"verdict: {verdict}; skip rate: difference between -?\d+\.\d\d points and -?\d+\.\d\d points", reason
    )
    assert failed == "failed requests: 0.00 % against 0.00 %, ok"
    assert re.fullmatch(r"P95 of an answer: \d+\.\d ms against \d+\.\d ms, ok", p95)


@SQLITE
def test_before_the_planned_number_of_listeners(store):
    fill(store)
    analysis = analyse(store, msgspec.structs.replace(EXPERIMENT, listeners=1000))
    assert (analysis.verdict, analysis.reason[-27:]) == ("not yet", "with 400 of 1,000 listeners")


@SQLITE
def test_without_data(store):
    analysis = analyse(store, EXPERIMENT)
    assert analysis.verdict == "not yet"
    assert analysis.reason == f"{store.name}: expected lists of experiment demo/1, found none"
    ahead = analyse(store, msgspec.structs.replace(EXPERIMENT, started_ms=4_102_444_800_000))
    assert ahead.reason == "expected a start before now, found 2100-01-01 00:00:00Z: a clock was wrong"
    assert json.loads(json.dumps(summary.as_json(analysis)))["metrics"]["skip_rate"]["difference"] is None
    lines = summary.lines(analysis)
    assert "skip rate: no data" in lines
    assert lines[-3:-1] == ["failed requests: no data", "P95 of an answer: no data"]


@SQLITE
def test_without_events(store):
    store.add_exposures(simulated()[0])
    analysis = analyse(store, EXPERIMENT)
    assert analysis.verdict == "not yet"
    assert analysis.reason == f"{store.name}: expected events of the listeners of experiment demo/1, found none"


@SQLITE
def test_events_of_few_listeners(store):
    """All saw lists, and events are known of 60 of each variant or fewer."""
    shown, events = simulated()
    store.add_exposures(shown)
    store.add_events([each for each in events if each.user_id < "listener-000060"])
    analysis = analyse(store, EXPERIMENT)
    assert analysis.verdict == "not yet"
    assert analysis.reason.startswith("expected 50 listeners of each variant with a skip rate, found 2")


def test_texts_of_a_metric():
    """Differences are in points; what is planned may have no number yet, or be more than there can be."""
    found = Difference(0.25, 0.23, -0.02, -0.05, 0.01)
    lines = [
        summary.metric_line(MetricResult(METRICS["skip_rate"], found, detectable, 100), EXPERIMENT.listeners)
        for detectable in (0.02, None, 0.76)
    ]
    start = "skip rate: 23.00 % against 25.00 %, difference -2.00 points (-5.00 points to 1.00 points); "
    assert lines == [
        f"{start}planned to find 2.00 points",
        f"{start}no estimate yet of the difference that 400 listeners find",
        f"{start}400 listeners are too few to find any difference",
    ]


@SQLITE
def test_listeners_who_were_not_assigned_by_the_share(store):
    fill(store)
    analysis = analyse(store, msgspec.structs.replace(EXPERIMENT, share=0.3))
    assert analysis.verdict == "broken"
    assert analysis.reason.startswith("expected a share of 0.3 in the treatment, found 0.")


@SQLITE
def test_listeners_who_saw_both_variants(store):
    fill(store)
    exposure = simulated()[0][0]
    other = {"control": "treatment", "treatment": "control"}[exposure.variant]
    store.add_exposures([msgspec.structs.replace(exposure, variant=other)])
    analysis = analyse(store, EXPERIMENT)
    assert analysis.verdict == "broken"
    assert analysis.reason == "expected one variant for each listener, found 1 who saw both"


@SQLITE
@pytest.mark.parametrize(
    ("bundle", "choices", "reason"),
    [
        ("demo-1.0.0", {}, "expected 1.1.0 to answer the treatment, found 100 % other lists"),
        ("demo-1.1.0", {}, "expected 1.0.0 to answer the control, found 100 % other lists"),
        ("demo-1.1.0", {"control": "external"}, "expected external to answer the control, found 100 % other lists"),
        ("", {"control": "external", "treatment": "blend"}, None),
        ("demo-1.2.0", {"control": "popular", "treatment": "blend"}, None),
    ],
)
def test_a_variant_that_another_bundle_answered(store, bundle, choices, reason):
    fill(store, bundle=bundle)
    analysis = analyse(store, msgspec.structs.replace(EXPERIMENT, **choices))
    assert (analysis.verdict == "broken") == (reason is not None)
    assert reason in (None, analysis.reason)


@SQLITE
def test_lists_from_before_the_start_and_after_the_end_do_not_count(store):
    fill(store)
    times = sorted(each.time_ms for each in simulated()[0])
    limits = {"started_ms": times[100], "stopped_ms": times[-101]}
    lists = _read_lists(store, msgspec.structs.replace(EXPERIMENT, **limits))
    assert lists["time_ms"].to_list() == times[100:-100]


@SQLITE
def test_guardrails(store):
    """All requests of some listeners of the treatment failed, and all answers took 150 ms."""
    shown, _ = simulated()
    failing = {exposure.user_id for exposure in shown if exposure.variant == "treatment" and exposure.user_id[-1] < "3"}
    errors = ["ModelError" if exposure.user_id in failing else None for exposure in shown]
    store.add_exposures(
        [
            msgspec.structs.replace(exposure, error=error, duration_us=150_000)
            for exposure, error in zip(shown, errors, strict=True)
        ]
    )
    analysis = analyse(store, EXPERIMENT)
    error_rate, p95 = analysis.guardrails
    assert error_rate.crossed
    assert error_rate.control == 0
    assert 0.2 < error_rate.treatment < 0.4
    assert p95.crossed
    assert (p95.control, p95.treatment) == (150, 150)
    failed, slow = summary.lines(analysis)[-3:-1]
    assert failed == f"failed requests: {100 * error_rate.treatment:.2f} % against 0.00 %, too high"
    assert slow == "P95 of an answer: 150.0 ms against 150.0 ms, too high"


@SQLITE
def test_guardrails_are_not_crossed_by_few_listeners(store: FeedbackStore) -> None:
    """The only listener of the treatment got an error, after a second."""
    shown, _ = simulated()
    users = {exposure.variant: exposure.user_id for exposure in shown}
    for exposure in shown:
        if exposure.user_id == users[exposure.variant]:
            error = "ModelError" if exposure.variant == "treatment" else None
            store.add_exposures([msgspec.structs.replace(exposure, error=error, duration_us=10**6)])
    analysis = analyse(store, EXPERIMENT)
    assert (analysis.treatment_listeners, analysis.control_listeners) == (1, 1)
    assert [guardrail.treatment for guardrail in analysis.guardrails] == [1, 1000]
    assert not any(guardrail.crossed for guardrail in analysis.guardrails)


@SQLITE
def test_events_after_the_end_do_not_count(store):
    fill(store, effect=-0.08)
    stopped = msgspec.structs.replace(EXPERIMENT, stopped_ms=1)
    difference = analyse(store, stopped).metrics["skip_rate"].difference
    assert difference is None


@SQLITE
@pytest.mark.parametrize("rollout", [None, 1])
def test_one_listener_decides_nothing(store: FeedbackStore, rollout: int | None) -> None:
    """A listener of the treatment skips ten thousand tracks that a list does not have, and all of 2,000 lists that they
    were shown, slowly and with errors."""
    fill(store)
    experiment = msgspec.structs.replace(EXPERIMENT, rollout=rollout)
    before = analyse(store, experiment)
    stage = ", of rollout demo/1" if rollout else ""
    assert summary.lines(before)[0] == f"experiment demo/1{stage}: 1.1.0 against 1.0.0, running"
    shown, events = simulated()
    treated = next(each for each in shown if each.variant == "treatment")
    skip = next(each for each in events if each.list_id == treated.list_id)
    lists = [msgspec.structs.replace(treated, list_id=f"{i}", duration_us=10**6) for i in range(2000)]
    failed = [
        msgspec.structs.replace(treated, list_id=f"failed {i}", tracks="[]", error="ModelError") for i in range(2000)
    ]
    skips = [
        msgspec.structs.replace(
            skip,
            event_id=f"{each.list_id} {track['id']}",
            list_id=each.list_id,
            track_id=track["id"],
            action="skipped",
            ms_played=0,
        )
        for each in lists
        for track in json.loads(each.tracks)
    ]
    invented = [msgspec.structs.replace(skips[0], event_id=f"{i}", track_id=f"{i}") for i in range(10_000)]
    store.add_exposures(lists + failed)
    store.add_events(skips + invented)
    after = analyse(store, experiment)
    assert after.verdict == before.verdict == "no difference"
    assert not any(guardrail.crossed for guardrail in after.guardrails)
    assert (
        0 < after.metrics["skip_rate"].difference.treatment - before.metrics["skip_rate"].difference.treatment < 2 / 190
    )
