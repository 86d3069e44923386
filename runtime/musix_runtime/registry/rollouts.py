"""Rollouts of a registry: a version that more and more users get, until it is live.

    REGISTRY/NAME/rollouts/NUMBER.json    one rollout with its journal; the numbers go from 1 on

A stage is an experiment of the version against the live one. All stages have one salt, so a user who got the version
keeps it when the share grows. The file of the rollout is written first: it says what the experiments and the live
pointer should be. `settle` lets them follow, at once or, when the process was killed, with the next command.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from musix_runtime import clock
from musix_runtime.bundle.manifest import NAME, VERSION
from musix_runtime.errors import BundleError, ChangedRolloutError, StoreError, UnknownRolloutError
from musix_runtime.registry import experiments
from musix_runtime.registry.experiments import Experiment, Metric
from musix_runtime.registry.numbered_files import NumberedFiles

if TYPE_CHECKING:
    from musix_runtime.registry.registry import Registry

MAX_STAGES = 100
MAX_HARM = 0.02  # by default: two points of the skip rate
MAX_JOURNAL = 500  # the newest entries
State = Literal["running", "held", "aborted", "finished"]
Action = Literal["start", "advance", "hold", "resume", "abort"]
Share = Annotated[float, Meta(ge=experiments.MIN_SHARE, le=1)]


class Entry(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What was done at a time, in ms since 1970 in UTC, the share of the users from then on, and why."""

    time_ms: experiments.Time
    action: Action
    share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    reason: str = ""
    evidence: dict[str, Any] = {}


class Rollout(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """The rollout of `version` in stages: the shares of the users that get it, ascending, of which the last is 1.

    `experiment` is the number of the present stage's experiment. A stage lasts at least `stage_ms`, and the next one
    begins when `metric` is not worse than the control's by more than `max_harm`. A rollout that is running at its last
    stage is finished as soon as its version is live.
    """

    name: Annotated[str, Meta(pattern=NAME)]
    number: Annotated[int, Meta(ge=1, lt=10**9)]
    version: Annotated[str, Meta(pattern=VERSION)]
    stages: Annotated[tuple[Share, ...], Meta(min_length=2, max_length=MAX_STAGES)]
    stage: Annotated[int, Meta(ge=0)]
    stage_ms: Annotated[int, Meta(ge=0, le=10**12)]
    listeners: Annotated[int, Meta(ge=experiments.MIN_LISTENERS, le=10**9)]
    metric: Metric
    max_harm: Annotated[float, Meta(gt=0, le=1000)]
    experiment: Annotated[int, Meta(ge=1, lt=10**9)]
    state: State
    journal: Annotated[tuple[Entry, ...], Meta(min_length=1, max_length=MAX_JOURNAL)]

    def __post_init__(self) -> None:
        if any(before >= after for before, after in pairwise(self.stages)) or self.stages[-1] != 1:
            raise ValueError(f"stages: expected growing shares, the last of them 1, found {self.stages}")
        if self.stage >= len(self.stages):
            raise ValueError(f"stage: expected a number below {len(self.stages)}, found {self.stage}")

    @property
    def id(self) -> str:
        """Name and number."""
        return f"{self.name}/{self.number}"

    @property
    def share(self) -> float:
        """The share of the users that get the version."""
        return 0.0 if self.state == "aborted" else self.stages[self.stage]

    @property
    def goes_on(self) -> bool:
        """Whether the rollout goes on."""
        return self.state in ("running", "held")

    def is_at(self, experiment: Experiment) -> bool:
        """Whether an experiment is the present stage."""
        return self.goes_on and (experiment.rollout, experiment.number) == (self.number, self.experiment)


ADVICE = "mend it, or remove it: its rollout then ends with the next command that changes experiments or what is live"
FILES = NumberedFiles(Rollout, "rollouts", "a rollout", UnknownRolloutError, ADVICE)


def start(
    registry: "Registry",
    name: str,
    version: str,
    *,
    stages: Sequence[float],
    stage_ms: int,
    listeners: int,
    now_ms: int,
    metric: str = "skip_rate",
    max_harm: float = MAX_HARM,
) -> Rollout:
    """Start the rollout of a published version, at its first stage.

    Raises StoreError for wrong values, the live version or one that is not published, and while an experiment or
    another rollout goes on; BundleError for a broken version.
    """
    registry.history(name)
    with registry.settled(name) as folder:
        live = registry.history(name)[0]
        experiments.check_none_running(registry, name)
        if version == live:
            raise StoreError(f"{folder}: expected another version than the live one, found {version}")
        registry.check_published(name, version)
        content = {
            "name": name,
            "number": FILES.next_number(folder),
            "version": version,
            "stages": stages,
            "stage": 0,
            "stageMs": stage_ms,
            "listeners": listeners,
            "metric": metric,
            "maxHarm": max_harm,
            "experiment": experiments.FILES.next_number(folder),
            "state": "running",
            "journal": [{"timeMs": now_ms, "action": "start", "share": next(iter(stages), 0)}],
        }
        rollout = FILES.convert(str(folder), content)
        return _carry_out(registry, folder, rollout)


def advance(
    registry: "Registry", name: str, now_ms: int, reason: str, evidence: dict[str, Any], seen: Rollout | None = None
) -> Rollout:
    """Enter the next stage; after the last one, the version is live.

    Raises StoreError unless a rollout is running, and for a version that is missing or broken; ChangedRolloutError
    unless it is still as it was `seen`, if that is given.
    """
    with _changing(registry, name, "running", seen=seen) as (folder, rollout):
        with _advising_to_abort(registry, name):
            registry.check_published(name, rollout.version)
        entry = Entry(now_ms, "advance", reason=reason, evidence=evidence)
        last = rollout.stage + 2 == len(rollout.stages)  # the version is live then, without another experiment
        number = rollout.experiment if last else experiments.FILES.next_number(folder)
        return _write(registry, folder, replace(rollout, stage=rollout.stage + 1, experiment=number), entry)


def hold(registry: "Registry", name: str, now_ms: int) -> Rollout:
    """Stay at the present stage until `resume`. Raises StoreError unless a rollout is running."""
    with _changing(registry, name, "running") as (folder, rollout):
        return _write(registry, folder, replace(rollout, state="held"), Entry(now_ms, "hold"))


def resume(registry: "Registry", name: str, now_ms: int) -> Rollout:
    """Go on with a rollout that is held. Raises StoreError for none."""
    with _changing(registry, name, "held") as (folder, rollout):
        return _write(registry, folder, replace(rollout, state="running"), Entry(now_ms, "resume"))


def abort(
    registry: "Registry",
    name: str,
    now_ms: int,
    reason: str = "",
    evidence: dict[str, Any] | None = None,
    seen: Rollout | None = None,
) -> Rollout:
    """End a rollout: the live version answers all users again. Raises StoreError unless a rollout goes on, and
    ChangedRolloutError unless it is still as it was `seen`, if that is given.

    What a killed process began is not finished first, as that may be what fails; but a version that is live stays so.
    """
    with _changing(registry, name, "running", "held", aborting=True, seen=seen) as (folder, rollout):
        experiments.running(registry, name)  # raises StoreError for a broken file, before anything is written
        entry = Entry(now_ms, "abort", reason=reason, evidence=evidence or {})
        return _write(registry, folder, replace(rollout, state="aborted"), entry)


def read(registry: "Registry", name: str, number: int | None = None) -> Rollout:
    """Return a rollout of `name`, by default the latest. Raises StoreError for a broken file, UnknownRolloutError for
    none."""
    return FILES.find(registry.folder(name), number)


def settle(registry: "Registry", folder: Path) -> Rollout | None:
    """Let the experiments and the live pointer follow the latest rollout of a name, and return that rollout.

    This finishes what a killed process began. `folder` is that of the name, which `Registry.writing` locked; see also
    `Registry.settled`. Raises StoreError for broken files, and for a version that cannot be shown or live.
    """
    rollout = FILES.latest(folder)
    if rollout and rollout.goes_on:
        latest = experiments.FILES.latest(folder)
        with _advising_to_abort(registry, rollout.name):
            rollout = _begin_stage(registry, folder, rollout, latest)
    _stop_other_stages(folder, rollout)  # last, so that the version is shown without a gap
    return rollout


@contextmanager
def _changing(
    registry: "Registry", name: str, *states: State, aborting: bool = False, seen: Rollout | None = None
) -> Iterator[tuple[Path, Rollout]]:
    """Yield the folder of the name, under its lock, and its rollout: settled, except to abort what is not live yet.

    Raises StoreError unless the rollout has such a state, ChangedRolloutError unless it is still as it was `seen`.
    """
    registry.history(name)
    with registry.writing(name) as folder:
        rollout = FILES.latest(folder)
        if seen and rollout != seen:
            raise ChangedRolloutError(f"{folder}: expected rollout {seen.id} as it was read, found it changed")
        is_live = rollout and rollout.share == 1 and rollout.version == registry.history(name)[0]
        if not (aborting and rollout and rollout.goes_on and not is_live):
            rollout = settle(registry, folder)
        if rollout is None or rollout.state not in states:
            found = f"{rollout.id}, which is {rollout.state}" if rollout else "none"
            raise StoreError(f"{folder}: expected a rollout that is {' or '.join(states)}, found {found}")
        yield folder, rollout


def _write(registry: "Registry", folder: Path, rollout: Rollout, entry: Entry) -> Rollout:
    """Write a rollout with a further entry in its journal, and carry it out."""
    journal = (*rollout.journal, replace(entry, share=rollout.share))[-MAX_JOURNAL:]
    return _carry_out(registry, folder, replace(rollout, journal=journal))


def _carry_out(registry: "Registry", folder: Path, rollout: Rollout) -> Rollout:
    """Write a rollout, settle it, and return what is then in its file."""
    FILES.write(folder, rollout)
    settle(registry, folder)
    return FILES.read(folder, rollout.number)


@contextmanager
def _advising_to_abort(registry: "Registry", name: str) -> Iterator[None]:
    try:
        yield
    except (StoreError, BundleError) as error:
        use = registry.command("rollout abort", name)
        raise StoreError(f"{error}; to end the rollout, use: {use}") from error


def _begin_stage(registry: "Registry", folder: Path, rollout: Rollout, latest: Experiment | None) -> Rollout:
    """Write the experiment of the present stage unless it is the latest, or make the version live at the last stage.

    Return the rollout, which is finished after the last stage. Raises StoreError or BundleError where this cannot be.
    """
    if rollout.share == 1:
        registry.check_published(rollout.name, rollout.version)
        registry.make_live(folder, rollout.version)
        finished = replace(rollout, state="finished")
        FILES.write(folder, finished)
        return finished
    if latest is None or latest.number < rollout.experiment:
        experiments.FILES.write(folder, _experiment(registry, folder, rollout))
    elif not rollout.is_at(latest):
        raise StoreError(f"{folder}: expected an experiment of rollout {rollout.id} as the latest, found {latest.id}")
    return rollout


def _experiment(registry: "Registry", folder: Path, rollout: Rollout) -> Experiment:
    """Return the experiment of the present stage. Raises StoreError for values that are none."""
    content = {
        "name": rollout.name,
        "number": rollout.experiment,
        "control": registry.history(rollout.name)[0],
        "treatment": rollout.version,
        "share": rollout.share,
        "listeners": rollout.listeners,
        "metric": rollout.metric,
        "salt": f"{rollout.name}/rollout/{rollout.number}",
        "rollout": rollout.number,
        "startedMs": rollout.journal[-1].time_ms,
    }
    return experiments.FILES.convert(str(folder), content)


def _stop_other_stages(folder: Path, rollout: Rollout | None) -> None:
    """Stop the latest experiments that are stages of rollouts, except for the present stage."""
    over = []
    for number in reversed(experiments.FILES.numbers(folder)):
        experiment = experiments.FILES.read(folder, number)
        if rollout and rollout.is_at(experiment):
            continue
        if experiment.rollout is None or experiment.stopped_ms is not None:
            break
        over.append(experiment)
    for experiment in reversed(over):
        ours = rollout if rollout and rollout.number == experiment.rollout else None  # else its file was removed
        stopped_ms = ours.journal[-1].time_ms if ours else clock.now_ms()
        experiments.FILES.write(folder, replace(experiment, stopped_ms=max(stopped_ms, experiment.started_ms)))
