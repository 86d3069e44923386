"""Months of a simulated service with a planted truth: the loop promotes what is better, and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest

from musix_runtime.bundle.reader import Bundle
from musix_runtime.errors import GateError
from musix_runtime.feedback.events import DAY_MS
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.models.parts import open_bundle
from musix_runtime.registry import rollouts
from musix_runtime.serving.model_manager import ModelManager
from musix_trainer import recipe
from musix_trainer.data import synthetic
from musix_trainer.loop import journal
from musix_trainer.loop.loop import Loop, Result
from musix_trainer.loop.policy import Policy
from musix_trainer.recipe import RecipeFile, Synthetic
from perf.simulated_service import START_MS, SimulatedService
from tests.bundle_variants import copy_registry, variant
from tests.recipes import SMALL

LISTENERS = 400
SkipRates = Callable[[str, int], float]  # version, day -> share of the tracks that are skipped


@dataclass
class Year:
    """A service and its loop, which looks once a day. A new version is a copy of the first with another number."""

    service: SimulatedService
    loop: Loop
    day: int = 0
    results: list[tuple[int, Result]] = field(default_factory=list)

    def run(self, days: int) -> None:
        for _ in range(days):
            self.service.live_through(self.day)
            for result in self.loop.run(START_MS + (self.day + 1) * DAY_MS):
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
def years(tmp_path: Path, published: Path) -> Callable[..., Year]:
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
        registry = copy_registry(published, tmp_path / "registry", [*live])
        store = FeedbackStore.open(f"sqlite:///{tmp_path / 'feedback.db'}")
        service = SimulatedService(
            ModelManager.open(registry.path / "demo"),
            store,
            [synthetic.user_id(number) for number in range(LISTENERS)],
            lambda version, listener, tracks, day: skip_rates(version, day),
            active=0.4,
        )
        recipe_file = recipe.parse(text.encode(), Path("demo.toml"))
        policy = Policy(every_ms=8 * DAY_MS, pause_ms=3 * DAY_MS)
        loop = Loop(registry, "demo", store, recipe_file, data, tmp_path / "out", build, policy, rollout_ms=4 * DAY_MS)
        return Year(service, loop)

    return make


def test_a_better_version_is_promoted(years: Callable[..., Year]) -> None:
    year = years(lambda version, day: 0.38 if version == "1.0.0" else 0.05)
    year.run(8)
    assert year.actions() == []
    year.run(8)
    assert year.actions() == [(8, "retrain", "1.1.0")]
    assert year.live == ["1.1.0", "1.0.0"]
    shares = [entry.share for entry in rollouts.read(year.loop.registry, "demo").journal]
    assert shares == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_a_worse_version_stays_below_the_second_stage(years: Callable[..., Year]) -> None:
    year = years(lambda version, day: 0.2 if version == "1.0.0" else 0.35)
    year.run(14)
    assert year.live == ["1.0.0"]
    rollout = rollouts.read(year.loop.registry, "demo")
    assert rollout.state == "aborted"
    assert max(entry.share for entry in rollout.journal) == 0.2


def test_an_emergency_rolls_back_at_the_next_look(years: Callable[..., Year]) -> None:
    year = years(lambda version, day: 0.6 if version == "1.1.0" and day >= 3 else 0.2, live=("1.1.0", "1.0.0"))
    year.run(3)
    assert year.live == ["1.1.0", "1.0.0"]
    year.run(1)
    assert year.actions() == [(3, "roll back", "1.0.0"), (3, "retrain", "1.2.0")]
    assert year.live == ["1.0.0"]
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
    (record,) = journal.latest(year.loop.registry, "demo")
    assert (record.outcome, record.version) == ("refused", "1.1.0")


def test_what_a_new_version_learns_from(years: Callable[..., Year]) -> None:
    """All but the latest week, and nothing of a listener who was forgotten."""
    year = years(lambda version, day: 0.2)
    gone = synthetic.user_id(5)
    year.run(6)
    year.loop.store.forget(gone, START_MS)
    (result,) = year.loop.run(START_MS + 9 * DAY_MS, requested=True)
    assert result.outcome == "done"
    base = pl.read_parquet(year.loop.data / "listening.parquet")
    learned = pl.read_parquet(year.loop.out / "tables" / "demo-1.1.0" / "listening.parquet")
    assert gone in base["user_id"]
    assert gone not in learned["user_id"]
    new = learned.filter(pl.col("timestamp") >= START_MS // 1000)
    assert new["timestamp"].max() < (START_MS + 2 * DAY_MS) // 1000
    assert learned.height - new.height == base.filter(pl.col("user_id") != gone).height
