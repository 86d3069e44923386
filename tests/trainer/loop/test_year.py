"""Months of a simulated service with a planted truth: the loop promotes what is better, and nothing else."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from msgspec.structs import replace
from sqlalchemy import insert

from musix_runtime.bundle.reader import Bundle
from musix_runtime.engine import Engine
from musix_runtime.errors import GateError, RecipeError, TableError
from musix_runtime.feedback.events import DAY_MS, Event
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.feedback.tables import REPORTS
from musix_runtime.models.parts import open_bundle
from musix_runtime.registry import experiments, rollouts
from musix_runtime.registry.registry import Registry
from musix_runtime.serving.model_manager import ModelManager
from musix_trainer import recipe
from musix_trainer.data import synthetic
from musix_trainer.loop import journal
from musix_trainer.loop.loop import Loop, Result
from musix_trainer.loop.policy import Policy
from musix_trainer.loop.training_tables import write_training_tables
from musix_trainer.recipe import RecipeFile, Synthetic
from perf.simulated_service import START_MS, SimulatedService
from perf.year import CHANGE, Taste
from tests.bundle_variants import copy_registry, flip, variant
from tests.recipes import SMALL

LISTENERS = 400
SkipRates = Callable[[str, int], float]  # version, day -> share of the tracks that are skipped


@dataclass
class Clock:
    """A clock that is set."""

    now_ms: int = START_MS

    def __call__(self) -> int:
        return self.now_ms


@dataclass
class Year:
    """A service and its loop, which looks once a day. A new version is a copy of the first with another number."""

    service: SimulatedService
    loop: Loop
    clock: Clock
    day: int = 0
    results: list[tuple[int, Result]] = field(default_factory=list)

    def run(self, days: int) -> None:
        for _ in range(days):
            self.service.live_through(self.day)
            self.clock.now_ms = START_MS + (self.day + 1) * DAY_MS
            for result in self.loop.run():
                if result.outcome != "nothing":
                    self.results.append((self.day, result))
            self.day += 1

    @property
    def live(self) -> list[str]:
        return self.loop.registry.history("demo")

    def actions(self) -> list[tuple[int, str, str | None]]:
        """Return day, action and version of what was done beside the steps of rollouts."""
        return [(day, each.decision.action, each.version) for day, each in self.results if each.version]


@pytest.fixture
def years(tmp_path: Path, published: Path) -> Iterator[Callable[..., Year]]:
    world = synthetic.generate(Synthetic(tracks=800, listeners=100), 0)
    data = tmp_path / "data"
    data.mkdir()
    for name in ("tracks", "listening", "feedback"):
        getattr(world, name).write_parquet(data / f"{name}.parquet")
    text = SMALL.replace('"small"', '"demo"').replace('"synthetic"', '"tables"')

    def build(recipe_file: RecipeFile, tables: Path, out: Path) -> Bundle:
        version = recipe_file.recipe.version
        return open_bundle(variant(published / "demo" / "1.0.0", out / recipe_file.recipe.label, version))

    def make(skip_rates: SkipRates, live: tuple[str, ...] = ("1.0.0",)) -> Year:
        opener = cache(Engine.open)  # a real loop is a process of its own, and opens the live version each day
        registry = Registry(copy_registry(published, tmp_path / "registry", [*live]).path, opener)
        store = stores.enter_context(closing(FeedbackStore.open(f"sqlite:///{tmp_path / 'feedback.db'}")))
        service = SimulatedService(
            ModelManager.open(registry.path / "demo", opener),
            store,
            [synthetic.user_id(number) for number in range(LISTENERS)],
            lambda version, listener, tracks, day: skip_rates(version, day),
            active=0.4,
        )
        recipe_file = recipe.parse(text.encode(), Path("demo.toml"))
        clock = Clock()
        policy = Policy(every_ms=8 * DAY_MS, pause_ms=3 * DAY_MS)
        loop = Loop(registry, "demo", store, recipe_file, data, tmp_path / "out", build, policy, 4 * DAY_MS, clock)
        return Year(service, loop, clock)

    with ExitStack() as stores:
        yield make


class Killed(BaseException):
    """In place of the end of the process."""


def killed(*arguments: object, **fields: object) -> Any:
    raise Killed


def records(year: Year) -> list[tuple[str, str, str, str]]:
    """Return action, version, outcome and result of each record of the journal."""
    found = journal.read_all(year.loop.registry, "demo")
    return [(record.action, record.version, record.outcome, record.found) for record in reversed(found)]


def test_the_taste_of_the_simulated_year_changes() -> None:
    world = synthetic.generate(Synthetic(tracks=300, listeners=400), 0)
    taste = Taste.of(world)
    assert (taste.favourite[0] == world.favourite).all()
    assert (taste.favourite.sum(axis=2) == world.favourite.sum(axis=1)).all()  # a family goes, another one comes
    changed = (taste.favourite[1:] != taste.favourite[:-1]).any(axis=2).mean(axis=1)
    assert (abs(changed - CHANGE) < 0.1).all()


def test_the_loop_finishes_what_a_killed_process_began(years: Callable[..., Year], published: Path) -> None:
    year = years(lambda version, day: 0.2)
    registry = year.loop.registry
    registry.publish(published / "demo" / "1.1.0", candidate=True)
    rollouts.start(registry, "demo", "1.1.0", stages=(0.5, 1), stage_ms=0, listeners=100, now_ms=START_MS)
    (registry.folder("demo") / "experiments" / "1.json").unlink()  # as after a start that was killed
    (result,) = year.loop.run()
    assert (result.state.busy, result.outcome) == ("rollout demo/1", "nothing")
    assert experiments.read(registry, "demo").rollout == 1


def test_a_better_version_is_promoted(years: Callable[..., Year]) -> None:
    year = years(lambda version, day: 0.38 if version == "1.0.0" else 0.05)
    year.run(8)
    assert year.actions() == []
    year.run(8)
    assert year.actions() == [(8, "retrain", "1.1.0")]
    assert year.live == ["1.1.0", "1.0.0"]
    shares = [entry.share for entry in rollouts.read(year.loop.registry, "demo").journal]
    assert shares == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert [result.decision.action for _, result in year.results] == ["retrain", *["advance"] * 4]


def test_a_worse_version_stays_below_the_second_stage(years: Callable[..., Year]) -> None:
    year = years(lambda version, day: 0.2 if version == "1.0.0" else 0.35)
    year.run(14)
    assert year.live == ["1.0.0"]
    rollout = rollouts.read(year.loop.registry, "demo")
    assert rollout.state == "aborted"
    assert max(entry.share for entry in rollout.journal) == 0.2


def test_a_look_tells_the_step_of_the_rollout_that_follows(years: Callable[..., Year]) -> None:
    year = years(lambda version, day: 0.2 if version == "1.0.0" else 0.35)
    year.run(9)
    actions = set()
    while "abort" not in actions:
        year.service.live_through(year.day)
        year.day += 1
        year.clock.now_ms = START_MS + year.day * DAY_MS
        looked, (done,) = year.loop.look(), year.loop.run()
        assert (looked.decision, looked.outcome) == (done.decision, "nothing")
        assert done.decision.reason.startswith("rollout demo/1: ")
        assert (done.outcome == "done") == (done.decision.action == "abort")
        actions.add(done.decision.action)
    assert actions == {"wait", "abort"}


def test_a_rollback_is_told_when_the_training_after_it_fails(years: Callable[..., Year]) -> None:
    year = years(lambda version, day: 0.6 if version == "1.1.0" else 0.2, live=("1.1.0", "1.0.0"))
    (year.loop.data / "listening.parquet").write_bytes(b"no table")
    year.service.live_through(0)
    year.clock.now_ms += DAY_MS
    results = year.loop.run()
    assert next(results).found == "1.0.0 is live"
    with pytest.raises(TableError, match=r"listening\.parquet: expected a readable table"):
        next(results)


def test_what_killed_loops_left_is_removed(years: Callable[..., Year]) -> None:
    """It may hold listeners who were forgotten since. What is of another name stays."""
    year = years(lambda version, day: 0.2)
    out = year.loop.out
    left = [
        out / "tables" / "demo-1.0.5",
        *(out / folder / ".demo-1.0.9.partial" for folder in ("tables", ".", "runs")),
    ]
    others = [out / "tables" / "demo-eu-1.0.5", out / "tables" / ".demo-eu-1.0.9.partial"]
    for folder in (*left, *others):
        folder.mkdir(parents=True)
        (folder / "listening.parquet").write_bytes(b"")
    year.clock.now_ms += DAY_MS
    (result,) = year.loop.run(requested=True)
    assert result.outcome == "done"
    assert [folder for folder in (*left, *others) if folder.exists()] == others


def test_an_emergency_rolls_back_at_the_next_look(years: Callable[..., Year]) -> None:
    year = years(lambda version, day: 0.6 if version == "1.1.0" and day >= 3 else 0.2, live=("1.1.0", "1.0.0"))
    year.run(3)
    assert year.live == ["1.1.0", "1.0.0"]
    year.run(1)
    assert year.actions() == [(3, "roll back", "1.0.0"), (3, "retrain", "1.2.0")]
    assert year.live == ["1.0.0"]
    assert year.loop.look().state.rolled_back_ms == year.clock.now_ms
    year.run(1)
    assert year.service.manager.engine.bundle.manifest.version == "1.0.0"


def test_a_quiet_time_changes_nothing_but_the_scheduled_trainings(years: Callable[..., Year]) -> None:
    year = years(lambda version, day: 0.2)
    year.run(11)
    assert year.actions() == [(8, "retrain", "1.1.0")]
    assert year.live == ["1.0.0"]  # 400 listeners cannot show within days that a copy is not worse


def test_a_version_that_is_refused_is_tried_again_after_the_pause(years: Callable[..., Year]) -> None:
    year = years(lambda version, day: 0.2)

    def refuse(recipe_file: RecipeFile, tables: Path, out: Path) -> Bundle:
        raise GateError("demo-1.1.0: 1 of 2 gates failed")

    year.loop = Loop(**vars(year.loop) | {"build": refuse})
    year.run(10)
    (refused,) = (result for _, result in year.results)
    assert (refused.outcome, refused.found) == ("refused", "demo-1.1.0: 1 of 2 gates failed")
    assert year.live == ["1.0.0"]
    assert records(year) == [("retrain", "1.1.0", "refused", "demo-1.1.0: 1 of 2 gates failed")]


def test_what_a_new_version_learns_from(years: Callable[..., Year]) -> None:
    """All but the latest week, and nothing of a listener who was forgotten."""
    year = years(lambda version, day: 0.2)
    gone = synthetic.user_id(5)
    year.run(6)
    year.loop.store.forget(gone, START_MS)
    year.clock.now_ms = START_MS + 9 * DAY_MS
    (result,) = year.loop.run(requested=True)
    assert result.outcome == "done"
    base = pl.read_parquet(year.loop.data / "listening.parquet")
    learned = pl.read_parquet(year.loop.out / "tables" / "demo-1.1.0" / "listening.parquet")
    assert gone in base["user_id"]
    assert gone not in learned["user_id"]
    new = learned.filter(pl.col("timestamp") >= START_MS // 1000)
    assert new["timestamp"].max() < (START_MS + 2 * DAY_MS) // 1000
    assert learned.height - new.height == base.filter(pl.col("user_id") != gone).height


def test_an_emergency_with_a_broken_version_before_is_answered_by_a_training(years: Callable[..., Year]) -> None:
    year = years(lambda version, day: 0.6, live=("1.1.0", "1.0.0"))
    flip(year.loop.registry.path / "demo" / "1.0.0" / "genre" / "model.onnx")
    year.run(1)
    (_, refused), (_, trained) = year.results
    assert (refused.decision.action, refused.outcome) == ("roll back", "refused")
    assert "SHA-256" in refused.found or "genre/model.onnx" in refused.found
    assert (trained.decision.action, trained.version, trained.outcome) == ("retrain", "1.2.0", "done")
    year.run(2)
    assert year.actions() == [(0, "roll back", "1.0.0"), (0, "retrain", "1.2.0")]
    assert rollouts.read(year.loop.registry, "demo").goes_on
    assert year.live == ["1.1.0", "1.0.0"]


def test_a_refused_rollback_is_tried_again_after_the_pause(years: Callable[..., Year]) -> None:
    """Meanwhile an experiment keeps the loop from training, and somebody mends the version before."""
    year = years(lambda version, day: 0.6, live=("1.1.0", "1.0.0"))
    registry = year.loop.registry
    experiments.start(registry, "demo", treatment="popular", share=0.5, listeners=400, now_ms=START_MS)
    flip(registry.path / "demo" / "1.0.0" / "genre" / "model.onnx")
    year.run(2)
    assert year.actions() == [(0, "roll back", "1.0.0")]
    flip(registry.path / "demo" / "1.0.0" / "genre" / "model.onnx")
    year.run(2)
    assert year.actions()[1:] == [(3, "roll back", "1.0.0"), (3, "retrain", "1.2.0")]
    assert year.live == ["1.0.0"]


def test_a_refused_rollback_is_not_repeated_at_once_without_a_pause(years: Callable[..., Year]) -> None:
    year = years(lambda version, day: 0.6, live=("1.1.0", "1.0.0"))
    registry = year.loop.registry
    experiments.start(registry, "demo", treatment="popular", share=0.5, listeners=400, now_ms=START_MS)
    flip(registry.path / "demo" / "1.0.0" / "genre" / "model.onnx")
    year.loop = Loop(**vars(year.loop) | {"policy": Policy(pause_ms=0)})
    year.service.live_through(0)
    year.clock.now_ms += DAY_MS
    assert [result.outcome for result in year.loop.run()] == ["refused", "nothing"]


def test_a_job_takes_no_step_of_a_rollout(years: Callable[..., Year]) -> None:
    year = years(lambda version, day: 0.2 if version == "1.0.0" else 0.6)
    registry = year.loop.registry
    registry.publish(variant(registry.path / "demo" / "1.0.0", year.loop.out / "x", "1.1.0"), candidate=True)
    rollouts.start(registry, "demo", "1.1.0", stages=(0.5, 1), stage_ms=0, listeners=400, now_ms=START_MS)
    year.service.live_through(0)
    year.clock.now_ms += DAY_MS
    (result,) = year.loop.run(requested=True, job="a")
    assert (result.decision.action, result.outcome) == ("wait", "nothing")
    assert year.loop.look().decision.action == "abort"
    assert rollouts.read(registry, "demo").goes_on


def test_a_rollout_that_ended_during_the_training_needs_no_abort(years: Callable[..., Year]) -> None:
    year = years(lambda version, day: 0.2)
    registry, build_it = year.loop.registry, year.loop.build
    registry.publish(variant(registry.path / "demo" / "1.0.0", year.loop.out / "x", "1.1.0"), candidate=True)
    rollouts.start(registry, "demo", "1.1.0", stages=(0.5, 1), stage_ms=0, listeners=400, now_ms=START_MS)

    def build_long(*arguments: Any) -> Bundle:
        rollouts.abort(registry, "demo", year.clock.now_ms)
        return build_it(*arguments)

    year.loop = Loop(**vars(year.loop) | {"build": build_long})
    year.clock.now_ms += 20 * DAY_MS
    (result,) = year.loop.run(requested=True)
    assert (result.version, result.outcome) == ("1.2.0", "done")
    assert rollouts.read(registry, "demo").version == "1.2.0"


def test_a_rollback_is_recorded_by_the_loop_after_one_that_was_killed(
    years: Callable[..., Year], monkeypatch: pytest.MonkeyPatch
) -> None:
    year = years(lambda version, day: 0.6 if version == "1.1.0" else 0.2, live=("1.1.0", "1.0.0"))
    with monkeypatch.context() as patch:
        patch.setattr(journal, "finish", killed)
        with pytest.raises(Killed):
            year.run(1)
    assert records(year) == [("roll back", "1.0.0", "begun", "")]
    results = list(year.loop.run())
    assert [result.decision.reason for result in results] == ["after an emergency"]
    assert records(year)[0] == ("roll back", "1.0.0", "done", "1.0.0 is live")


def test_a_job_whose_end_was_lost_is_not_trained_again(
    years: Callable[..., Year], monkeypatch: pytest.MonkeyPatch
) -> None:
    year = years(lambda version, day: 0.2)
    year.clock.now_ms += DAY_MS
    with monkeypatch.context() as patch:
        patch.setattr(journal, "finish", killed)
        with pytest.raises(Killed):
            list(year.loop.run(requested=True, job="a"))
    for _ in range(2):
        (result,) = year.loop.run(requested=True, job="a")
        assert (result.outcome, result.version, result.found) == ("done", "1.1.0", "rollout demo/1 begins")
    assert len(records(year)) == 1
    (result,) = year.loop.run(requested=True, job="b")
    assert result.outcome == "nothing"


@pytest.mark.parametrize(("place", "outcome"), [("publish", "failed"), ("_backtest", "failed"), ("finish", "done")])
def test_a_training_that_was_killed_is_recorded_and_not_repeated(
    years: Callable[..., Year], monkeypatch: pytest.MonkeyPatch, place: str, outcome: str
) -> None:
    year = years(lambda version, day: 0.2)
    owner = {"publish": Registry, "_backtest": Loop, "finish": journal}[place]
    year.clock.now_ms += DAY_MS
    with monkeypatch.context() as patch:
        patch.setattr(owner, place, killed)
        with pytest.raises(Killed):
            list(year.loop.run(requested=True))
    assert [record[2] for record in records(year)] == ["begun"]
    (result,) = year.loop.run()
    assert (result.decision.action, result.outcome) == ("wait", "nothing")
    found = {"failed": "the loop was ended before it was done", "done": "rollout demo/1 begins"}[outcome]
    assert records(year) == [("retrain", "1.1.0", outcome, found)]


def test_broken_records_and_reports_are_named_and_delay_no_emergency(
    years: Callable[..., Year], caplog: pytest.LogCaptureFixture
) -> None:
    year = years(lambda version, day: 0.6 if version == "1.1.0" else 0.2, live=("1.1.0", "1.0.0"))
    folder = year.loop.registry.path / "demo" / "decisions"
    folder.mkdir()
    (folder / "7.json").write_text("{")
    with year.loop.store.writing() as connection:
        connection.execute(insert(REPORTS), {"name": "demo", "time_ms": START_MS, "content": "{}"})
    year.run(1)
    assert year.actions() == [(0, "roll back", "1.0.0"), (0, "retrain", "1.2.0")]
    assert "decisions/7.json: expected JSON that can be read" in caplog.text
    assert "reports: expected one of this program" in caplog.text
    assert year.loop.store.latest_report("demo") is not None


def test_times_of_a_wrong_clock_delay_no_training(years: Callable[..., Year]) -> None:
    """A record, a report and a list of a year that is to come."""
    year = years(lambda version, day: 0.2)
    year.run(1)
    far = START_MS + 3650 * DAY_MS
    values = {"action": "retrain", "trigger": "schedule", "reason": "", "version": "1.0.0", "evidence": {}}
    journal.finish(year.loop.registry, journal.begin(year.loop.registry, "demo", time_ms=far, **values), outcome="done")
    store, report = year.loop.store, year.loop.store.latest_report("demo")
    assert report is not None
    store.add_report(replace(report, time_ms=far))
    store.add_exposures([replace(store.exposures()[0], list_id="far", time_ms=far)])
    year.clock.now_ms = START_MS + 9 * DAY_MS
    (result,) = year.loop.run()
    assert (result.decision.trigger, result.outcome) == ("schedule", "done")
    latest = store.latest_report("demo")
    assert latest is not None
    assert latest.time_ms == year.clock.now_ms


def test_lists_of_another_name_are_not_lists_of_this_one(years: Callable[..., Year]) -> None:
    year = years(lambda version, day: 0.2)
    year.run(1)
    before = year.loop.look().state
    shown = year.loop.store.exposures()[0]
    others = {"bundle": "demo-eu-1.0.0", "time_ms": START_MS - 40 * DAY_MS}
    now = [replace(shown, bundle="demo-eu-1.0.0", list_id=f"{i}", user_id=f"{i}") for i in range(70)]
    year.loop.store.add_exposures([*now, replace(shown, list_id="old", **others)])
    assert year.loop.look().state == before


def test_a_broken_file_of_a_past_experiment_is_named_and_stops_no_emergency(
    years: Callable[..., Year], caplog: pytest.LogCaptureFixture
) -> None:
    year = years(lambda version, day: 0.6 if version == "1.1.0" else 0.2, live=("1.1.0", "1.0.0"))
    registry = year.loop.registry
    values = {"treatment": "popular", "share": 0.5, "listeners": 100, "now_ms": START_MS - 2 * DAY_MS}
    for _ in range(2):
        experiments.start(registry, "demo", **values)
        experiments.stop(registry, "demo", START_MS - DAY_MS)
    (registry.path / "demo" / "experiments" / "1.json").write_text("{")
    year.run(1)
    assert year.actions()[0] == (0, "roll back", "1.0.0")
    assert "experiments/1.json: expected JSON that can be read" in caplog.text


def test_a_client_that_skips_everything_is_one_listener(years: Callable[..., Year]) -> None:
    year = years(lambda version, day: 0.2, live=("1.1.0", "1.0.0"))
    year.run(1)
    before = year.loop.look().state.skip_rate
    shown = year.loop.store.exposures()[0]
    lists = [replace(shown, list_id=f"{i}", time_ms=START_MS) for i in range(2000)]
    skips = [
        Event(f"{i}", START_MS, START_MS, shown.user_id, None, f"{i}", "t", 1, "skipped", 0) for i in range(len(lists))
    ]
    year.loop.store.add_exposures(lists)
    year.loop.store.add_events(skips)
    assert year.loop.look().state.skip_rate == before  # no list has the track
    tracks = json.loads(shown.tracks)
    year.loop.store.add_events(
        [replace(each, event_id=f"real {each.event_id}", track_id=tracks[0]["id"]) for each in skips]
    )
    after = year.loop.look().state.skip_rate
    assert before is not None
    assert after is not None
    assert after.listeners == before.listeners
    assert 0 < after.value - before.value <= 2 / before.listeners


def test_lists_of_a_fixed_policy_are_no_emergency_of_the_live_version(years: Callable[..., Year]) -> None:
    year = years(lambda version, day: 0.2, live=("1.1.0", "1.0.0"))
    year.service.skip_chance = lambda version, number, tracks, day: 0.95 if treated(number) else 0.1
    values = {"treatment": "popular", "share": 0.8, "listeners": 400, "now_ms": START_MS}
    experiment = experiments.start(year.loop.registry, "demo", **values)

    def treated(number: int) -> bool:
        return experiment.variant(year.service.listeners[number]) == "treatment"

    year.run(2)
    assert year.results == []
    assert year.live == ["1.1.0", "1.0.0"]
    report = year.loop.store.latest_report("demo")
    assert report is not None
    assert [alarm.key for alarm in report.alarms] == []


def test_a_training_that_fails_is_recorded_and_not_repeated(years: Callable[..., Year]) -> None:
    year = years(lambda version, day: 0.2)
    (year.loop.data / "listening.parquet").write_bytes(b"")
    year.run(8)
    with pytest.raises(TableError, match=r"listening\.parquet: expected a"):
        year.run(1)
    assert [record[:3] for record in records(year)] == [("retrain", "1.1.0", "failed")]
    year.day += 1
    year.run(1)
    assert year.results == []


def test_plays_are_added_to_a_table_without_numbers_of_plays(years: Callable[..., Year], tmp_path: Path) -> None:
    year = years(lambda version, day: 0.0)
    year.run(2)
    recipe_file, events = year.loop.recipe_file.recipe, year.loop.store.days()
    until_ms = (events[-1] + 2) * DAY_MS
    write_training_tables(recipe_file, year.loop.data, year.loop.store, until_ms, tmp_path / "merged")
    base = pl.read_parquet(year.loop.data / "listening.parquet")
    merged = pl.read_parquet(tmp_path / "merged" / "listening.parquet")
    assert "plays" not in base.columns
    played = sum(event.action == "played" for day in events for event in year.loop.store.events_of(day))
    assert merged["plays"].sum() == played  # the others have none, which is one play
    assert merged["plays"].null_count() == base.height


def test_tables_with_names_that_are_paths_are_refused(years: Callable[..., Year], tmp_path: Path) -> None:
    year = years(lambda version, day: 0.2)
    source = year.loop.data / "listening.parquet"
    before = source.read_bytes()
    tables = replace(year.loop.recipe_file.recipe.tables, listening=str(source))
    settings = replace(year.loop.recipe_file.recipe, tables=tables)
    with pytest.raises(RecipeError, match="expected names of files in the data folder, found"):
        write_training_tables(settings, year.loop.data, year.loop.store, START_MS, tmp_path / "merged")
    assert source.read_bytes() == before
