"""Experiments of a registry: which share of the users is answered by a treatment, and the others by a control.

    REGISTRY/NAME/experiments/NUMBER.json    one experiment; the numbers go from 1 on

Only the latest experiment of a name can be running. Its file is replaced by a rename, so readers need no lock.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from musix_runtime.atomic import check_writable, flush, write_file
from musix_runtime.bundle.archive import read_small
from musix_runtime.bundle.manifest import VERSION
from musix_runtime.engine import POLICIES
from musix_runtime.errors import BundleError, MissingFileError, StoreError, UnknownExperimentError, shorten
from musix_runtime.registry.assignment import assign
from musix_runtime.schemas import Variant

if TYPE_CHECKING:
    from musix_runtime.registry.registry import Registry

FOLDER = "experiments"
NUMBER = r"[1-9][0-9]{0,8}"
FILE = re.compile(rf"({NUMBER})\.json\Z")
MAX_FILE_BYTES = 2**16
EXTERNAL = "external"  # the control that a host makes itself
Metric = Literal["skip_rate", "save_rate", "session_tracks", "repeat_rate"]
MIN_LISTENERS = 100
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
    share: Annotated[float, Meta(gt=0, lt=1)]  # of the users that get the treatment
    listeners: Annotated[int, Meta(ge=MIN_LISTENERS, le=10**9)]  # planned for the analysis
    metric: Metric  # by which the analysis decides
    salt: Annotated[str, Meta(min_length=1, max_length=1000)]  # of the assignment
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
    with registry.writing(name) as folder:
        number = _next_number(registry, name)
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
        experiment = _experiment(str(folder), values)
        for version in experiment.versions:
            _check_version(registry, name, version)
        _write(folder, experiment)
    return experiment


def stop(registry: "Registry", name: str, now_ms: int) -> Experiment:
    """Stop the running experiment. Raises StoreError when there is none."""
    registry.history(name)
    with registry.writing(name) as folder:
        experiment = running(registry, name)
        if experiment is None:
            raise StoreError(f"{folder}: expected a running experiment, found none")
        stopped = msgspec.structs.replace(experiment, stopped_ms=max(now_ms, experiment.started_ms))
        _write(folder, stopped)
    return stopped


def running(registry: "Registry", name: str) -> Experiment | None:
    """Return the running experiment of `name`, None without one. Raises StoreError for a broken file."""
    latest = _latest(registry, name)
    return latest if latest and latest.stopped_ms is None else None


def read(registry: "Registry", name: str, number: int | None = None) -> Experiment:
    """Return an experiment of `name`, by default the latest. Raises StoreError for a broken file,
    UnknownExperimentError for none."""
    if number is not None:
        return _read(registry.folder(name), number)
    latest = _latest(registry, name)
    if latest is None:
        raise UnknownExperimentError(f"{registry.folder(name)}: expected an experiment, found none")
    return latest


def read_all(registry: "Registry", name: str) -> list[Experiment]:
    """Return all experiments of `name`, in the order of their numbers. Raises StoreError for a broken file."""
    folder = registry.folder(name)
    return [_read(folder, number) for number in _numbers(folder)]


def parse_number(text: str) -> int:
    """Return the number of an experiment. Raises UnknownExperimentError for text that is none."""
    if not re.fullmatch(NUMBER, text):
        raise UnknownExperimentError(f"number: expected the number of an experiment, found {shorten(text)!r}")
    return int(text)


def _next_number(registry: "Registry", name: str) -> int:
    """Return the number of a new experiment. Raises StoreError while another one is running."""
    latest = _latest(registry, name)
    if latest and latest.stopped_ms is None:
        advice = "to end it, use: musix experiment stop"
        raise StoreError(f"{registry.folder(name)}: expected no running experiment, found {latest.id}; {advice}")
    return latest.number + 1 if latest else 1


def _check_version(registry: "Registry", name: str, version: str) -> None:
    """Raise StoreError for a version that is not published, and BundleError for a broken one."""
    if not os.path.lexists(registry.folder(name) / version):
        raise StoreError(f"{registry.folder(name)}: expected a published version, found {version}, which is missing")
    registry.open(name, version)


def _latest(registry: "Registry", name: str) -> Experiment | None:
    folder = registry.folder(name)
    numbers = _numbers(folder)
    return _read(folder, numbers[-1]) if numbers else None


def _numbers(folder: Path) -> list[int]:
    try:
        names = [path.name for path in (folder / FOLDER).iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{folder / FOLDER}: expected a folder that can be read, found: {error.strerror}") from error
    return sorted(int(found[1]) for found in map(FILE.match, names) if found)


def _read(folder: Path, number: int) -> Experiment:
    file = folder / FOLDER / f"{number}.json"
    try:
        content = msgspec.json.decode(read_small(file, MAX_FILE_BYTES))
    except MissingFileError as error:
        raise UnknownExperimentError(f"{file}: expected an experiment, found none") from error
    except BundleError as error:
        raise StoreError(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise StoreError(f"{file}: expected JSON that can be read, found: {error}") from error
    experiment = _experiment(str(file), content)
    if (experiment.name, experiment.number) != (folder.name, number):
        raise StoreError(f"{file}: expected the experiment {folder.name}/{number}, found {experiment.id}")
    return experiment


def _experiment(place: str, content: object) -> Experiment:
    """Return the experiment of decoded JSON. Raises StoreError for wrong values."""
    try:
        return msgspec.convert(content, Experiment)
    except msgspec.ValidationError as error:
        raise StoreError(f"{place}: expected an experiment, found: {shorten(str(error), 300)}") from error


def _write(folder: Path, experiment: Experiment) -> None:
    check_writable(folder / FOLDER)
    content = msgspec.json.format(msgspec.json.encode(experiment), indent=2) + b"\n"
    write_file(folder / FOLDER / f"{experiment.number}.json", content)
    flush(folder / FOLDER)


def _check_choice(place: str, choice: str, others: tuple[str, ...]) -> None:
    if choice not in others and not re.match(VERSION, choice):
        raise ValueError(f"{place}: expected a version, {' or '.join(others)}, found {shorten(choice)!r}")
