"""Reports by what a feedback store holds, on simulated listeners with planted changes, and the command."""

import subprocess
import sys
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from musix_runtime import Engine, Registry
from musix_runtime.feedback.events import DAY_MS, Event
from musix_runtime.feedback.exposures import Exposure
from musix_runtime.feedback.reports import Figure, LiveFigures, Report
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.registry.experiments import Experiment
from musix_trainer.loop import report_text
from musix_trainer.loop.live_figures import figure
from musix_trainer.loop.monitoring import LIVE_MS, monitor
from perf.monitoring import NOW_MS, STARTED, Change, simulate

MUSIX = Path(sys.executable).with_name("musix")
LISTENERS, LISTS = 70, 4
SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture(scope="module")
def engine(small_bundle: Path) -> Engine:
    return Engine.open(small_bundle)


def fill(store: FeedbackStore, engine: Engine, change: Change, **fields: object) -> None:
    """Store simulated lists and events, the lists with other values of some fields."""
    shown, events = zip(*simulate(engine, LISTENERS, LISTS, change), strict=True)
    store.add_exposures([msgspec.structs.replace(each, **fields) for each in chain(*shown)])
    store.add_events(list(chain(*events)))


@pytest.mark.parametrize(
    ("database", "change", "kinds"),
    [
        ("sqlite", Change(), set()),
        ("postgresql", Change(energetic=0.6), {"drift"}),
        ("sqlite", Change(disliked=0.3), {"calibration", "skip_rate", "emergency"}),
    ],
    indirect=["database"],
)
def test_planted_changes_are_found(store: FeedbackStore, engine: Engine, change: Change, kinds: set[str]) -> None:
    fill(store, engine, change)
    report = monitor(store, engine, [], NOW_MS)
    assert {alarm.kind for alarm in report.alarms} == kinds
    assert ("drift/energy" in {alarm.key for alarm in report.alarms}) == ("drift" in kinds)
    assert (report.name, report.version, report.time_ms) == ("small", "1.0.0", NOW_MS)
    assert report.live.listeners == report.reference.listeners == LISTENERS
    assert report.live.until_ms - report.live.from_ms == 7 * DAY_MS
    assert report.reference.until_ms == report.live.from_ms
    assert report.live.unknown_plays == 0
    figures = report.bundles["1.0.0"]
    assert report.variants == {"none": figures}
    assert (figures.listeners, figures.lists) == (LISTENERS, LISTENERS * LISTS)
    assert figures.skip_rate.low < 0.175 + change.disliked < figures.skip_rate.high
    assert figures.precision.value == pytest.approx((1 - figures.skip_rate.value) * STARTED / 10, abs=0.02)
    assert 0 < figures.coverage <= 1
    assert sum(report.shown.moods.values()) == pytest.approx(1)
    content = msgspec.json.encode(report)
    assert msgspec.json.decode(content, type=Report) == report
    assert b"listener-" not in content  # no ids
    printed = list(report_text.lines(report))[-len(report.alarms) or -1 :]
    begins = {alarm.key: "emergency" if alarm.key == "emergency" else "alarm" for alarm in report.alarms}
    assert printed == ([f"{begins[alarm.key]}: {alarm.sentence}" for alarm in report.alarms] or ["no alarm"])


@SQLITE
def test_without_data(store: FeedbackStore, engine: Engine) -> None:
    report = monitor(store, engine, [], NOW_MS)
    assert report.alarms == []
    assert (report.live.listeners, report.reference.listeners, report.bundles) == (0, 0, {})
    assert {each.kl for each in report.drift.values()} == {None}
    assert "no alarm" in list(report_text.lines(report))


@SQLITE
def test_one_thing_is_printed_in_the_singular(store: FeedbackStore, engine: Engine) -> None:
    report = monitor(store, engine, [], NOW_MS)
    one = msgspec.structs.replace(
        report,
        live=msgspec.structs.replace(report.live, plays=1, listeners=1),
        reference=msgspec.structs.replace(report.reference, plays=1_200, listeners=60),
        calibration=msgspec.structs.replace(report.calibration, tracks=1),
        bundles={"1.0.0": LiveFigures(1, 1, 0.5, None, None, None, None, None)},
    )
    printed = "\n".join(report_text.lines(one))
    for expected in (
        ", 1 play of 1 listener, not",
        ", 1,200 plays of 60 listeners\n",
        "of 1 track\n",
        "1 list of 1 listener,",
    ):
        assert expected in printed


@SQLITE
def test_a_young_bundle_has_a_reference_that_ends_before_the_live_week(store: FeedbackStore, engine: Engine) -> None:
    fill(store, engine, Change())
    newer = monitor(store, engine, [], NOW_MS - 22 * DAY_MS)
    assert newer.reference.until_ms == newer.reference.from_ms  # less than a week tells too little
    assert newer.alarms == []
    young = monitor(store, engine, [], NOW_MS - 20 * DAY_MS)
    assert young.reference.until_ms - young.reference.from_ms == pytest.approx(8 * DAY_MS, abs=DAY_MS)
    assert young.reference.until_ms == young.live.from_ms
    later = monitor(store, engine, [], NOW_MS + 100 * DAY_MS)
    assert later.reference.until_ms - later.reference.from_ms == 28 * DAY_MS
    assert later.reference.from_ms == young.reference.from_ms
    assert later.live.plays == 0


@SQLITE
@pytest.mark.parametrize(
    ("bundle", "versions"), [("small-other-1.0.0", []), ("small-1.0.0-1.0.0", []), ("small-0.9.0", ["0.9.0"])]
)
def test_other_names_and_other_versions(store: FeedbackStore, engine: Engine, bundle: str, versions: list[str]) -> None:
    """Listeners of another version do not count as those of the live one; those of another name not at all."""
    store.add_exposures([exposure(NOW_MS - DAY_MS, bundle=bundle)])
    store.add_events([event("ann", engine.catalog.track_id(0), "played", NOW_MS - DAY_MS)])
    report = monitor(store, engine, [], NOW_MS)
    assert list(report.bundles) == versions
    assert report.live.listeners == report.live.unknown_plays == 0


@SQLITE
def test_variants_of_an_experiment(store: FeedbackStore, engine: Engine) -> None:
    """Lists of a fixed policy count as its variant, and neither as those of the version nor for the calibration; nor do
    lists of the host. Variants are those of the running experiment."""
    policy = Experiment(
        name="small",
        number=1,
        control="external",
        treatment="blend",
        share=0.5,
        listeners=1000,
        metric="skip_rate",
        salt="small/1",
        started_ms=0,
    )
    fill(store, engine, Change(), experiment="small/1", variant="treatment")
    store.add_exposures([exposure(NOW_MS - DAY_MS, bundle="", experiment="small/1", variant="control")])
    report = monitor(store, engine, [policy], NOW_MS)
    assert report.calibration.tracks == 0
    assert monitor(store, engine, [], NOW_MS).calibration.tracks == LISTENERS * LISTS * STARTED
    assert set(report.bundles) == {"external"}
    assert {variant: figures.lists for variant, figures in report.variants.items()} == {
        "control": 1,
        "treatment": LISTENERS * LISTS,
    }
    over = msgspec.structs.replace(policy, stopped_ms=NOW_MS)
    assert monitor(store, engine, [over], NOW_MS).variants == {}


@SQLITE
def test_figures_that_are_counted_by_hand(store: FeedbackStore, engine: Engine) -> None:
    """Of ann's list of four tracks one is played, one skipped at once and one late; of bob's two none is started."""
    ids = engine.catalog.track_ids.take(range(4))
    start = NOW_MS - LIVE_MS + 1
    tracks = [{"id": track, "position": place, "score": 0.5} for place, track in enumerate(ids, 1)]
    ann, bob = exposure(start, tracks), exposure(start, tracks[:2], user="bob")
    failed = msgspec.structs.replace(ann, list_id="failed", error="ModelError", tracks="[]")
    store.add_exposures([ann, bob, failed])
    store.add_events(
        [
            event("ann", ids[0], "played", start, 200_000),
            event("ann", ids[1], "skipped", start, 1_000),
            event("ann", ids[2], "skipped", start, 30_000),
            event("ann", "nowhere", "played", start, 30_000),
            event("ann", ids[0], "saved", start),
            event("bob", ids[0], "played", start - 2, 200_000),  # before the live week
            event("ann", ids[3], "played", start - 1, 200_000),  # in it, and before the list
        ]
    )
    report = monitor(store, engine, [], NOW_MS)
    figures = report.bundles["1.0.0"]
    assert (figures.listeners, figures.lists) == (2, 2)
    assert figures.coverage == 4 / len(engine.catalog)
    assert figures.precision.value == pytest.approx((2 / 4 + 0) / 2)
    assert figures.skip_rate is None  # of one listener there is no interval
    assert (report.live.plays, report.live.unknown_plays) == (2, 1)
    assert (report.calibration.listeners, report.calibration.tracks) == (1, 3)


def test_intervals_of_ratios_hold_the_truth() -> None:
    """1,000 times 100 listeners, who skip shares of their own: 1 in 4 in the mean."""
    random = np.random.default_rng(0)
    started = random.integers(1, 40, (1000, 100))
    skipped = random.binomial(started, random.beta(2, 6, started.shape))
    found = [figure(*each) for each in zip(skipped.astype(float), started.astype(float), strict=True)]
    assert 930 <= sum(each.low < 0.25 < each.high for each in found) <= 970
    assert figure(np.array([1.0, 0]), np.array([2.0, 0])) is None
    assert figure(np.array([0.0, 1]), np.ones(2)) == Figure(0.5, 0, 1)


@SQLITE
def test_one_listener_gives_no_alarm(store: FeedbackStore, engine: Engine) -> None:
    """A listener skips all of a hundred lists and, of one of them, ten thousand tracks that it does not have."""
    fill(store, engine, Change())
    quiet = monitor(store, engine, [], NOW_MS).bundles["1.0.0"]
    tracks = [
        {"id": track, "position": place, "score": 0.9}
        for place, track in enumerate(engine.catalog.track_ids.take(range(100)), 1)
    ]
    lists = [replace(exposure(NOW_MS - DAY_MS, tracks, "listener-000000"), list_id=f"{i}") for i in range(100)]
    old = [replace(each, list_id=f"old {each.list_id}", time_ms=NOW_MS - 20 * DAY_MS) for each in lists]
    skip = event("listener-000000", "", "skipped", NOW_MS - DAY_MS, 0)
    store.add_exposures(lists + old)
    store.add_events(
        [
            replace(
                skip,
                event_id=f"{each.list_id} {track['id']}",
                track_id=str(track["id"]),
                list_id=each.list_id,
                occurred_ms=each.time_ms,
            )
            for each in lists + old
            for track in tracks
        ]
        + [replace(skip, event_id=f"other {i}", track_id=f"other {i}", list_id="0") for i in range(10_000)]
    )
    report = monitor(store, engine, [], NOW_MS)
    assert report.alarms == []
    figures = report.bundles["1.0.0"]
    for name in ("skip_rate", "precision"):
        assert abs(getattr(figures, name).value - getattr(quiet, name).value) <= 2 / LISTENERS


def exposure(
    time_ms: int, tracks: list[dict[str, object]] | None = None, user: str = "ann", **fields: object
) -> Exposure:
    values = {"bundle": "small-1.0.0", "digest": "", "source": "hybrid", "context": "{}", **fields}
    content = msgspec.json.encode(tracks or []).decode()
    return Exposure(list_id=f"of {user}", time_ms=time_ms, user_id=user, tracks=content, **values)  # type: ignore[arg-type]


def event(user: str, track: str, action: str, time_ms: int, ms_played: int | None = None) -> Event:
    return Event(
        event_id=f"{user} {track} {action}",
        received_ms=time_ms,
        occurred_ms=time_ms,
        user_id=user,
        session_id=None,
        list_id=f"of {user}",
        track_id=track,
        position=None,
        action=action,
        ms_played=ms_played,
    )


@pytest.fixture
def registry(small_bundle: Path, tmp_path: Path) -> Path:
    return Registry(tmp_path / "registry").publish(small_bundle).parents[1]


@SQLITE
def test_the_command_prints_and_stores_a_report(store: FeedbackStore, database: str, registry: Path) -> None:
    command = [MUSIX, "monitor", registry, "small", "--feedback", database, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert msgspec.json.decode(done.stdout, type=Report) == store.latest_report("small")
