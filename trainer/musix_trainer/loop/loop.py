"""The loop: one look at what listeners do, and what follows from it: a rollback, a step of a rollout, a new version."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import polars as pl

from musix_runtime.bundle.reader import Bundle
from musix_runtime.engine import Engine
from musix_runtime.errors import GateError
from musix_runtime.feedback.events import DAY_MS
from musix_runtime.feedback.reports import CALIBRATION, DRIFT
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.registry import experiments, rollouts
from musix_runtime.registry.registry import Registry
from musix_trainer.data import tables
from musix_trainer.loop import journal, rollout
from musix_trainer.loop.backtest import Backtest, backtest
from musix_trainer.loop.journal import Outcome
from musix_trainer.loop.monitoring import add_report
from musix_trainer.loop.policy import Decision, Policy, State, decide
from musix_trainer.loop.state import read_chosen, read_state
from musix_trainer.loop.training_tables import write_training_tables
from musix_trainer.recipe import RecipeFile, with_version

KEPT_MS = 7 * DAY_MS  # what a new version does not learn from, so that it can be compared with the live one on it
STAGES = (0.2, 0.4, 0.6, 0.8, 1.0)
Build = Callable[[RecipeFile, Path, Path], Bundle]  # recipe, folder of its tables, folder for the bundle


@dataclass(frozen=True)
class Result:
    """A decision, the state that led to it, and what came of it. `version` is the one of a rollback or a training."""

    decision: Decision
    state: State
    outcome: Outcome
    found: str = ""
    version: str | None = None


@dataclass(frozen=True)
class Loop:
    """The loop of one bundle. `build` makes the bundle of a recipe; `out` gets its tables and its run."""

    registry: Registry
    name: str
    store: FeedbackStore
    recipe_file: RecipeFile
    data: Path
    out: Path
    build: Build
    policy: Policy = field(default_factory=Policy)
    rollout_ms: int = 7 * DAY_MS

    def look(self, now_ms: int, requested: bool = False) -> Result:
        """Return what the policy decides now, without doing it. Stores a report of monitoring once a day."""
        state = read_state(self.registry, self.name, self.store, self._alarms(now_ms), now_ms)
        return Result(decide(state, self.policy, requested), state, "nothing")

    def run(self, now_ms: int, requested: bool = False) -> list[Result]:
        """Look once, and do what follows. After a rollback the next version is trained at once.

        Raises MusixError for whatever cannot be read or written.
        """
        result = self.look(now_ms, requested)
        if result.decision.action == "roll back":
            return [self._roll_back(result), *self.run(now_ms, requested)]
        if result.decision.action == "retrain":
            return [self._retrain(result)]
        if result.state.rollout:
            step = rollout.step(self.registry, self.name, self.store, now_ms)
            return [replace(result, outcome="done" if step.changed else "nothing", found=step.reason)]
        return [result]

    def _alarms(self, now_ms: int) -> tuple[str, ...]:
        """Return the keys of the alarms of drift and calibration, by a report that is at most a day old."""
        report = self.store.latest_report(self.name)
        live = self.registry.history(self.name)[0]
        if report is None or report.version != live or now_ms - report.time_ms >= DAY_MS:
            report = add_report(self.store, self.registry, self.name, now_ms)
        return tuple(alarm.key for alarm in report.alarms if alarm.kind in (DRIFT, CALIBRATION))

    def _roll_back(self, result: Result) -> Result:
        """Make the version before live, for all listeners."""
        now_ms = result.state.now_ms
        if result.state.rollout:
            rollouts.abort(self.registry, self.name, now_ms, result.decision.reason)
        elif result.state.busy:
            experiments.stop(self.registry, self.name, now_ms)
        version = self.registry.rollback(self.name).name
        return self._record(replace(result, outcome="done", found=f"{version} is live", version=version))

    def _retrain(self, result: Result) -> Result:
        """Train the next version, and start its rollout unless it is refused."""
        if result.state.rollout:
            rollouts.abort(self.registry, self.name, result.state.now_ms, "the next version is due")
        version = next_version(self.registry.versions(self.name))
        result = replace(result, version=version)
        recipe_file = with_version(self.recipe_file, self.name, version)
        folder = self.out / "tables" / recipe_file.recipe.label
        until_ms = result.state.now_ms - KEPT_MS
        write_training_tables(recipe_file.recipe, self.data, self.store, until_ms, folder)
        try:
            bundle = self.build(recipe_file, folder, self.out)
        except GateError as error:
            return self._record(replace(result, outcome="refused", found=str(error)))
        compared = self._backtest(bundle, folder / recipe_file.recipe.tables.listening, until_ms)
        if compared and not compared.passed:
            return self._record(replace(result, outcome="refused", found=str(compared)))
        self.registry.publish(bundle.path, candidate=True)
        started = rollouts.start(
            self.registry,
            self.name,
            version,
            stages=STAGES,
            stage_ms=self.rollout_ms // (len(STAGES) - 1),
            listeners=max(result.state.listeners, experiments.MIN_LISTENERS),
            now_ms=result.state.now_ms,
        )
        seen = compared or "too few listeners chose tracks themselves to compare it sooner"
        found = f"{seen}; rollout {started.id} begins"
        return self._record(replace(result, outcome="done", found=found))

    def _backtest(self, bundle: Bundle, listening: Path, until_ms: int) -> Backtest | None:
        """Compare a new bundle with the live one on what it has not learned from, and neither has proposed."""
        live = self.registry.open_path(self.registry.live(self.name))
        heard = tables.read(listening).frame.select(pl.col("user_id", "track_id").cast(pl.String))
        return backtest(live, Engine.open(bundle.path), heard, read_chosen(self.store, until_ms))

    def _record(self, result: Result) -> Result:
        """Write a result into the journal, and return it."""
        journal.write(
            self.registry,
            self.name,
            time_ms=result.state.now_ms,
            action=result.decision.action,
            trigger=result.decision.trigger,
            reason=result.decision.reason,
            version=result.version,
            outcome=result.outcome,
            found=result.found,
            evidence=asdict(result.state),
        )
        return result


def next_version(versions: Sequence[str]) -> str:
    """Return the version after the highest of them: 1.3.0 after 1.2.5."""
    major, minor, _ = max(tuple(map(int, version.split("."))) for version in versions)
    return f"{major}.{minor + 1}.0"
