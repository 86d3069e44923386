"""The loop: one look at what listeners do, and what follows from it: a rollback, a step of a rollout, a new version."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import polars as pl

from musix_runtime.atomic import check_free, remove, remove_leftovers
from musix_runtime.bundle.reader import Bundle
from musix_runtime.clock import now_ms
from musix_runtime.engine import Engine
from musix_runtime.errors import BundleError, FeedbackError, GateError, MusixError
from musix_runtime.feedback.events import DAY_MS
from musix_runtime.feedback.reports import CALIBRATION, DRIFT, Report
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.models.catalog import strip_uri
from musix_runtime.registry import experiments, rollouts
from musix_runtime.registry.registry import Registry
from musix_trainer.data import tables
from musix_trainer.loop import journal, rollout
from musix_trainer.loop.backtest import Backtest, backtest
from musix_trainer.loop.experiment import MIN_LISTENERS
from musix_trainer.loop.journal import Outcome, Record
from musix_trainer.loop.monitoring import report_of
from musix_trainer.loop.policy import Decision, Policy, State, decide, is_open
from musix_trainer.loop.state import read_chosen, read_skip_change, read_state
from musix_trainer.loop.training_tables import check_recipe, write_training_tables
from musix_trainer.recipe import RecipeFile, with_version

logger = logging.getLogger(__name__)
KEPT_MS = 7 * DAY_MS  # what a new version does not learn from, so that it can be compared with the live one on it
STAGES = (0.2, 0.4, 0.6, 0.8, 1.0)
Build = Callable[[RecipeFile, Path, Path], Bundle]  # recipe, folder of its tables, folder for the bundle


@dataclass(frozen=True)
class Result:
    """A decision, the state that led to it, and what came of it. `version` is the one of a rollback or a training.

    There is no state where there was no look: another loop works, or the job was done before.
    """

    decision: Decision
    state: State | None
    outcome: Outcome
    found: str = ""
    version: str | None = None


@dataclass(frozen=True)
class _Look(Result):
    """The result of a look."""

    state: State


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
    clock: Callable[[], int] = now_ms

    def __post_init__(self) -> None:
        check_recipe(self.recipe_file, self.name)

    def look(self, requested: bool = False) -> Result:
        """Return what the policy decides now, and change nothing."""
        result = self._decide(requested, self._report_if_due)
        if _goes_on(result):
            return _of_rollout(result, rollout.look(self.registry, self.name, self.store, self.clock()))
        return result

    def run(self, requested: bool = False, job: str | None = None) -> Iterator[Result]:
        """Look once, and do what follows; yield the result of each action when it is done. After a rollback the next
        version is trained at once. For a job, of which a worker may have lost the end, it trains once.

        Stores a report of monitoring once a day. The caller holds `journal.sole_loop`. Raises MusixError for whatever
        cannot be read or written.
        """
        with self.registry.writing(self.name) as folder:
            rollouts.settle(self.registry, folder)
        journal.complete(self.registry, self.name)
        if job and (done := journal.training_of(self.registry, self.name, job)):
            decision = Decision(done.action, done.trigger, done.reason)
            yield Result(decision, None, done.outcome, done.found, done.version)
            return
        result = self._decide(requested, self._stored_report)
        if result.decision.action == "roll back":
            yield self._roll_back(result)
            yield from self.run(requested, job)
        elif result.decision.action == "retrain":
            yield self._retrain(result, job)
        elif _goes_on(result) and not job:  # a job is about a training only
            yield _of_rollout(result, rollout.step(self.registry, self.name, self.store, self.clock()))
        else:
            yield result

    def _decide(self, requested: bool, report_of_day: Callable[[], Report]) -> _Look:
        """Decide: about an emergency first, for which no report is needed, and about others by the report of the day.

        What takes long to read is read only if it can change the decision.
        """
        state = read_state(self.registry, self.name, self.store, self.clock())
        decision = decide(state, self.policy, requested)
        if decision.action != "roll back":
            report = report_of_day()
            if is_open(state, self.policy):
                change = read_skip_change(self.registry, self.name, self.store, state.now_ms)
                alarms = tuple(alarm.key for alarm in report.alarms if alarm.kind in (DRIFT, CALIBRATION))
                state = replace(state, skip_change=change, alarms=alarms)
                decision = decide(state, self.policy, requested)
        return _Look(decision, state, "nothing")

    def _stored_report(self) -> Report:
        """Return a report about the live version that is at most a day old. A new one is stored."""
        report = self._latest_report()
        if report is None:
            report = report_of(self.store, self.registry, self.name, self.clock())
            self.store.add_report(report)
        return report

    def _report_if_due(self) -> Report:
        """Return such a report, and store none."""
        return self._latest_report() or report_of(self.store, self.registry, self.name, self.clock())

    def _latest_report(self) -> Report | None:
        """Return the latest report if it is about the live version and of the latest day; one with a later time is of a
        wrong clock. One that cannot be read is named in the log, and replaced by the next."""
        try:
            stored = self.store.latest_report(self.name)
        except FeedbackError as error:
            logger.warning("%s; the loop makes a new one", error)
            return None
        live = self.registry.history(self.name)[0]
        fits = stored and stored.version == live and abs(self.clock() - stored.time_ms) < DAY_MS
        return stored if fits else None

    def _roll_back(self, result: _Look) -> Result:
        """Make the version before live, for all listeners. It is refused if it is broken, and then nothing ends."""
        version = self.registry.history(self.name)[1]
        record = self._begin(result, version)
        try:
            self.registry.open(self.name, version)
        except BundleError as error:
            return self._finish(record, replace(result, outcome="refused", found=str(error), version=version))
        if result.state.rollout_since_ms is not None:
            rollouts.abort(self.registry, self.name, self.clock(), result.decision.reason)
        elif result.state.busy:
            experiments.stop(self.registry, self.name, self.clock())
        self.registry.rollback(self.name)
        return self._finish(record, replace(result, outcome="done", found=f"{version} is live", version=version))

    def _retrain(self, result: _Look, job: str | None) -> Result:
        """Train the next version, and start its rollout unless it is refused. A failure is recorded, so that it is not
        repeated before the pause is over."""
        records = journal.read_all(self.registry, self.name)
        version = next_version([*self.registry.versions(self.name), *(record.version for record in records)])
        recipe_file = with_version(self.recipe_file, version)
        for folder in (self.out, self.out / "runs"):
            check_free(folder / recipe_file.recipe.label, "the loop replaces nothing; remove it, or use --out")
        result = replace(result, version=version)
        record = self._begin(result, version, job)
        try:
            found = self._train(result, recipe_file)
        except GateError as error:
            return self._finish(record, replace(result, outcome="refused", found=str(error)))
        except MusixError as error:
            self._finish(record, replace(result, outcome="failed", found=str(error)))
            raise
        return self._finish(record, replace(result, outcome="done", found=found))

    def _train(self, result: _Look, recipe_file: RecipeFile) -> str:
        """Train a version and start its rollout. Return what came of it; raises GateError when it is refused."""
        folder = self.out / "tables" / recipe_file.recipe.label
        labels = re.compile(rf"{re.escape(self.name)}-\d+\.\d+\.\d+")
        until_ms = result.state.now_ms - KEPT_MS
        write_training_tables(recipe_file.recipe, self.data, self.store, until_ms, folder)
        for older in folder.parent.iterdir():
            if labels.fullmatch(older.name) and older != folder:
                remove(older)  # it may hold listeners who were forgotten since
        for place in (folder.parent, self.out, self.out / "runs"):
            remove_leftovers(place, labels)  # so may these
        bundle = self.build(recipe_file, folder, self.out)
        compared = self._backtest(bundle, folder / recipe_file.recipe.tables.listening, until_ms)
        if compared and compared.fault:
            raise GateError(f"{compared}, {compared.fault}")
        self.registry.publish(bundle.path, candidate=True)
        if result.state.rollout_since_ms is not None and rollouts.read(self.registry, self.name).goes_on:
            rollouts.abort(self.registry, self.name, self.clock(), "the next version is due")
        started = rollouts.start(
            self.registry,
            self.name,
            bundle.manifest.version,
            stages=STAGES,
            stage_ms=self.rollout_ms // (len(STAGES) - 1),
            listeners=max(result.state.listeners, round(MIN_LISTENERS / STAGES[0])),
            now_ms=self.clock(),
        )
        return f"{compared or 'too few listeners chose tracks themselves to compare it'}; rollout {started.id} begins"

    def _backtest(self, bundle: Bundle, listening: Path, until_ms: int) -> Backtest | None:
        """Compare a new bundle with the live one on what it has not learned from, and neither has proposed."""
        live = self.registry.open_path(self.registry.live(self.name))
        heard = tables.read(listening).frame.select(pl.col("user_id", "track_id").cast(pl.String))
        heard = heard.with_columns(pl.col("track_id").map_elements(strip_uri, return_dtype=pl.String))
        return backtest(live, Engine.open(bundle.path), heard, read_chosen(self.store, until_ms))

    def _begin(self, result: _Look, version: str, job: str | None = None) -> Record:
        """Write into the journal that an action begins."""
        return journal.begin(
            self.registry,
            self.name,
            time_ms=self.clock(),
            action=result.decision.action,
            trigger=result.decision.trigger,
            reason=result.decision.reason,
            version=version,
            evidence=asdict(result.state),
            job=job,
        )

    def _finish(self, record: Record, result: Result) -> Result:
        """Write a result into the journal, and return it."""
        changes = {"outcome": result.outcome, "found": result.found, "version": result.version}
        journal.finish(self.registry, record, time_ms=self.clock(), **changes)
        return result


def _goes_on(look: _Look) -> bool:
    """Return whether a rollout is running that may take its next step."""
    return look.decision.action == "wait" and look.state.rollout_since_ms is not None


def _of_rollout(look: _Look, step: rollout.Step) -> Result:
    """Return the result of a look after which a rollout takes a step, or would take it."""
    decision = Decision(step.action, None, f"{look.state.busy}: {step.reason}")
    return replace(look, decision=decision, outcome="done" if step.changed else "nothing")


def next_version(versions: Sequence[str]) -> str:
    """Return the version after the highest of them: 1.3.0 after 1.2.5."""
    major, minor, _ = max(tuple(map(int, version.split("."))) for version in versions)
    return f"{major}.{minor + 1}.0"
