"""Experiments of a registry: which share of the users is answered by a treatment, and the others by a control.

    REGISTRY/NAME/experiments/NUMBER.json    one experiment; the numbers go from 1 on

Only the latest experiment of a name can be running. Its file is replaced by a rename, so readers need no lock.
"""

import logging
import re
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from musix_runtime.bundle.manifest import VERSION
from musix_runtime.clock import format_time
from musix_runtime.engine import POLICIES
from musix_runtime.errors import StoreError, UnknownExperimentError, shorten
from musix_runtime.registry.assignment import assign
from musix_runtime.registry.numbered_files import NUMBER, NumberedFiles
from musix_runtime.schemas import Variant

if TYPE_CHECKING:
    from musix_runtime.registry.registry import Registry

logger = logging.getLogger(__name__)
EXTERNAL = "external"  # the control that a host makes itself
Metric = Literal["skip_rate", "save_rate", "session_tracks", "repeat_rate"]
MIN_LISTENERS = 100
MIN_SHARE = 1e-6
MAX_TIME_MS = 253_402_300_799_999  # the end of the year 9999
Time = Annotated[int, Meta(ge=0, le=MAX_TIME_MS)]


class Experiment(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """A comparison of two ways to answer.

    `control` and `treatment` are published versions, or fixed policies of the live bundle. The control may also be
    `external`: lists that the host makes itself. Times are milliseconds since 1970 in UTC.
    """

    name: str  # of the bundle
    number: Annotated[int, Meta(ge=1, lt=10**9)]
    control: str
    treatment: str
    share: Annotated[float, Meta(ge=MIN_SHARE, lt=1)]  # of the users that get the treatment
    listeners: Annotated[int, Meta(ge=MIN_LISTENERS, le=10**9)]  # planned for the analysis
    metric: Metric  # by which the analysis decides
    salt: Annotated[str, Meta(min_length=1, max_length=1000)]  # of the assignment
    rollout: Annotated[int, Meta(ge=1)] | None = None  # the number of the rollout of which this is a stage
    started_ms: Time
    stopped_ms: Time | None = None

    def __post_init__(self) -> None:
        _check_choice("control", self.control, (*POLICIES, EXTERNAL))
        _check_choice("treatment", self.treatment, POLICIES)
        if self.control == self.treatment:
            raise ValueError(f"treatment: expected another one than the control, found {self.treatment!r}")

    @property
    def id(self) -> str:
        """Name and number, which identify the experiment in the feedback store."""
        return f"{self.name}/{self.number}"

    @property
    def title(self) -> str:
        """What a person calls it: an experiment, and the rollout of which it is a stage."""
        stage = "" if self.rollout is None else f", of rollout {self.name}/{self.rollout}"
        return f"experiment {self.id}{stage}"

    @property
    def state(self) -> str:
        """Whether it is running, or when it was stopped."""
        return "running" if self.stopped_ms is None else f"stopped {format_time(self.stopped_ms)}"

    @property
    def choices(self) -> dict[Variant, str]:
        """The version or policy of each variant."""
        return {"control": self.control, "treatment": self.treatment}

    @property
    def versions(self) -> list[str]:
        """The published versions among control and treatment."""
        return [choice for choice in self.choices.values() if re.match(VERSION, choice)]

    def variant(self, user_id: str) -> Variant:
        """Return the variant of a user."""
        return assign(self.salt, user_id, self.share)


ADVICE = "mend it, or remove it: its experiment then ends, but the stage of a rollout begins again"
FILES = NumberedFiles(Experiment, "experiments", "an experiment", UnknownExperimentError, ADVICE)


def start(
    registry: "Registry",
    name: str,
    *,
    treatment: str,
    share: float,
    listeners: int,
    now_ms: int,
    control: str | None = None,
    metric: str = "skip_rate",
    salt: str | None = None,
) -> Experiment:
    """Start an experiment; without `control`, with the live version as the control.

    Raises StoreError for wrong values, while another one is running, and for a version that is not published;
    BundleError for a broken version.
    """
    registry.history(name)
    with registry.settled(name) as folder:
        check_none_running(registry, name)
        number = FILES.next_number(folder)
        values = {
            "name": name,
            "number": number,
            "control": control or registry.history(name)[0],
            "treatment": treatment,
            "share": share,
            "listeners": listeners,
            "metric": metric,
            "salt": salt or f"{name}/{number}",
            "startedMs": now_ms,
        }
        experiment = FILES.convert(str(folder), values)
        for version in experiment.versions:
            registry.check_published(name, version)
        FILES.write(folder, experiment)
    return experiment


def stop(registry: "Registry", name: str, now_ms: int) -> Experiment:
    """Stop the running experiment. Raises StoreError when there is none."""
    registry.history(name)
    with registry.settled(name) as folder:
        experiment = running(registry, name)
        if experiment is None:
            raise StoreError(f"{folder}: expected a running experiment, found none")
        if experiment.rollout is not None:
            raise _is_running(registry, experiment)
        stopped = msgspec.structs.replace(experiment, stopped_ms=max(now_ms, experiment.started_ms))
        FILES.write(folder, stopped)
    return stopped


def running(registry: "Registry", name: str) -> Experiment | None:
    """Return the running experiment of `name`, None without one. Raises StoreError for a broken file."""
    latest = FILES.latest(registry.folder(name))
    return latest if latest and latest.stopped_ms is None else None


def check_none_running(registry: "Registry", name: str) -> None:
    """Raise StoreError if an experiment or a stage of a rollout is running."""
    if found := running(registry, name):
        raise _is_running(registry, found)


def check_none_compares_versions(registry: "Registry", name: str) -> None:
    """Raise StoreError if one is running that names versions: they answer, whichever version is live."""
    found = running(registry, name)
    if found and found.versions:
        raise _is_running(registry, found)


def _is_running(registry: "Registry", found: Experiment) -> StoreError:
    folder = registry.folder(found.name)
    if found.rollout is None:
        use = registry.command("experiment stop", found.name)
        return StoreError(f"{folder}: expected no running experiment, found {found.id}; use: {use}")
    use = registry.command("rollout abort", found.name)
    return StoreError(f"{folder}: expected no rollout, found {found.name}/{found.rollout}; to end it, use: {use}")


def read(registry: "Registry", name: str, number: int | None = None) -> Experiment:
    """Return an experiment of `name`, by default the latest. Raises StoreError for a broken file or an unknown name,
    UnknownExperimentError for none."""
    try:
        return FILES.find(registry.folder(name), number)
    except UnknownExperimentError:
        registry.history(name)
        raise


def read_all(registry: "Registry", name: str) -> list[Experiment]:
    """Return all experiments of `name`, in the order of their numbers. Raises StoreError for a broken file."""
    folder = registry.folder(name)
    return [FILES.read(folder, number) for number in FILES.numbers(folder)]


def read_readable(registry: "Registry", name: str) -> list[Experiment]:
    """Return the experiments of `name` whose files can be read, in the order of their numbers. The others are named in
    the log: a broken file of the past stops nothing."""
    folder = registry.folder(name)
    found = []
    for number in FILES.numbers(folder):
        try:
            found.append(FILES.read(folder, number))
        except StoreError as error:
            logger.warning("%s; it is left out", error)
    return found


def parse_number(text: str) -> int:
    """Return the number of an experiment. Raises UnknownExperimentError for text that is none."""
    if not re.fullmatch(NUMBER, text):
        raise UnknownExperimentError(f"number: expected the number of an experiment, found {shorten(text)!r}")
    return int(text)


def _check_choice(place: str, choice: str, others: tuple[str, ...]) -> None:
    if choice not in others and not re.match(VERSION, choice):
        raise ValueError(f"{place}: expected a version, {' or '.join(others)}, found {shorten(choice)!r}")
