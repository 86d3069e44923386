"""The journal of the loop in a registry: what was done, when and why.

REGISTRY/NAME/decisions/NUMBER.json    one action; the numbers go from 1 on

A record is written before its action begins, and again when that has ended: so an action of a loop that was killed has
a record too. REGISTRY/NAME/.loop is the lock of the loops.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from musix_runtime.atomic import check_writable, lock
from musix_runtime.bundle.manifest import NAME, VERSION
from musix_runtime.errors import StoreError, UnknownRolloutError
from musix_runtime.registry import rollouts
from musix_runtime.registry.numbered_files import NumberedFiles
from musix_runtime.registry.registry import Registry
from musix_trainer.loop.policy import Trigger

logger = logging.getLogger(__name__)
LOCK = ".loop"
KILLED = "the loop was ended before it was done"
Outcome = Literal["begun", "done", "refused", "failed", "nothing"]


class Record(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """An action: a rollback to `version`, or the training of it. `evidence` is the state that it was decided by."""

    name: Annotated[str, Meta(pattern=NAME)]
    number: Annotated[int, Meta(ge=1, lt=10**9)]
    time_ms: Annotated[int, Meta(ge=0)]  # of its end, or of its begin if the loop was killed
    action: Literal["roll back", "retrain"]
    trigger: Trigger
    reason: str
    version: Annotated[str, Meta(pattern=VERSION)]
    outcome: Outcome
    found: str  # what came of it
    evidence: dict[str, Any]
    job: str | None = None  # which asked for the training


FILES = NumberedFiles(Record, "decisions", "a decision", StoreError, "mend it, or remove it")


@contextmanager
def sole_loop(registry: Registry, name: str, wait: bool) -> Iterator[None]:
    """Hold the lock of the loops of `name`. While another process holds it, wait, or raise BusyError.

    Raises StoreError for a name that has no live version, OutputError when the registry cannot be written.
    """
    registry.history(name)
    folder = registry.folder(name)
    check_writable(folder)
    with lock(folder / LOCK, wait):
        yield


def read_all(registry: Registry, name: str) -> list[Record]:
    """Return the records of `name`, the newest first. A file that cannot be read is named in the log and left out: no
    emergency may wait for its repair. Raises StoreError when the folder cannot be read."""
    folder = registry.folder(name)
    records = []
    for number in reversed(FILES.numbers(folder)):
        try:
            records.append(FILES.read(folder, number))
        except StoreError as error:
            logger.warning("%s; the loop goes on without it", error)
    return records


def training_of(registry: Registry, name: str, job: str) -> Record | None:
    """Return the record of the training that a job asked for, if it was done or refused."""
    ours = (record for record in read_all(registry, name) if (record.job, record.action) == (job, "retrain"))
    return next((record for record in ours if record.outcome in ("done", "refused")), None)


def begin(registry: Registry, name: str, **fields: Any) -> Record:
    """Add the record of an action that begins. Raises StoreError, OutputError."""
    with registry.writing(name) as folder:
        record = Record(name=name, number=FILES.next_number(folder), outcome="begun", found="", **fields)
        FILES.write(folder, record)
    return record


def finish(registry: Registry, record: Record, **changes: Any) -> Record:
    """Write what came of an action. Raises OutputError."""
    finished = replace(record, **changes)
    with registry.writing(record.name) as folder:
        FILES.write(folder, finished)
    return finished


def complete(registry: Registry, name: str) -> None:
    """Write what came of the actions of a loop that was killed, by what the registry holds now.

    Only for the holder of `sole_loop`. Raises StoreError, OutputError.
    """
    for record in read_all(registry, name):
        if record.outcome == "begun":
            found = _found(registry, record)
            finish(registry, record, outcome="done" if found else "failed", found=found or KILLED)


def _found(registry: Registry, record: Record) -> str:
    """Return what an action has changed, nothing if it was ended before."""
    if record.action == "roll back":
        return f"{record.version} is live" if registry.history(record.name)[0] == record.version else ""
    try:
        latest = rollouts.read(registry, record.name)
    except UnknownRolloutError:
        return ""
    return f"rollout {latest.id} begins" if latest.version == record.version else ""
