"""The journal of the loop in a registry: what was done, when and why.

REGISTRY/NAME/decisions/NUMBER.json    one action; the numbers go from 1 on
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from musix_runtime.bundle.manifest import NAME, VERSION
from musix_runtime.errors import StoreError
from musix_runtime.registry.numbered_files import NumberedFiles
from musix_runtime.registry.registry import Registry
from musix_trainer.loop.policy import Trigger

Outcome = Literal["done", "refused", "failed", "nothing"]


class Record(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """An action: a rollback to `version`, or the training of it. `evidence` is the state that it was decided by."""

    name: Annotated[str, Meta(pattern=NAME)]
    number: Annotated[int, Meta(ge=1, lt=10**9)]
    time_ms: Annotated[int, Meta(ge=0)]
    action: Literal["roll back", "retrain"]
    trigger: Trigger
    reason: str
    version: Annotated[str, Meta(pattern=VERSION)]
    outcome: Outcome
    found: str  # what came of it
    evidence: dict[str, Any]


FILES = NumberedFiles(Record, "decisions", "a decision", StoreError)


def latest(registry: Registry, name: str) -> list[Record]:
    """Return the latest records of `name`, the newest first, up to the latest training. Raises StoreError."""
    folder = registry.folder(name)
    records = []
    for number in reversed(FILES.numbers(folder)):
        records.append(FILES.read(folder, number))
        if records[-1].action == "retrain":
            break
    return records


def write(registry: Registry, name: str, **fields: Any) -> Record:
    """Add a record. Raises StoreError, OutputError."""
    with registry.writing(name) as folder:
        record = Record(name=name, number=FILES.next_number(folder), **fields)
        FILES.write(folder, record)
    return record
