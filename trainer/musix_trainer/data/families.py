"""Genre families: which labels of the tracks table are of which family, read from TOML."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from musix_runtime.bundle.manifest import MAX_FAMILIES, SourceInfo
from musix_runtime.errors import InputError, shorten
from musix_runtime.input_file import read_input
from musix_trainer import toml_text

SHIPPED = Path(__file__).parents[1] / "families.toml"
MIN_FAMILIES = 3


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file: labels without a family, and the labels of each family."""

    families: dict[str, list[str]]
    no_family: list[str] = []


@dataclass(frozen=True)
class Families:
    """Families with the labels of each, in alphabetical order, and the labels that say nothing of the genre."""

    name: str  # of the file, for messages
    labels: dict[str, list[str]]
    no_family: list[str]
    sha256: str

    def names(self) -> list[str]:
        """Return the names of the families."""
        return list(self.labels)

    def number_of(self) -> dict[str, int | None]:
        """Return the number of the family of each label, None for a label without a family."""
        numbers: dict[str, int | None] = dict.fromkeys(self.no_family)
        return numbers | {label: i for i, members in enumerate(self.labels.values()) for label in members}

    def source(self) -> SourceInfo:
        """Return the file's entry in the provenance; its rows are the labels."""
        return SourceInfo(self.sha256, len(self.number_of()), simulated=False, notes={})


def read(path: Path = SHIPPED) -> Families:
    """Read and check a file of families, by default the shipped one. Raises InputError."""
    try:
        content = read_input(path)
    except InputError as error:
        raise InputError(f"{path}: expected a file of genre families, found: {error}") from error
    try:
        raw = toml_text.parse(content)
        _check_labels(raw, path)
        document = msgspec.convert(raw, _Document)
    except (ValueError, msgspec.ValidationError) as error:
        raise InputError(f"{path}: expected TOML with the table families, found: {error}") from error
    labels = [label for members in document.families.values() for label in members] + document.no_family
    repeated = sorted(label for label, count in Counter(labels).items() if count > 1)
    if repeated:
        raise InputError(f"{path}: expected each label once, found {', '.join(repeated[:5])} several times")
    if not MIN_FAMILIES <= len(document.families) <= MAX_FAMILIES or not all(map(str.isprintable, document.families)):
        raise InputError(
            f"{path}: expected {MIN_FAMILIES} to {MAX_FAMILIES} families with printable names,"
            f" found {len(document.families)}"
        )
    return Families(
        str(path), dict(sorted(document.families.items())), document.no_family, hashlib.sha256(content).hexdigest()
    )


def _check_labels(raw: dict[str, Any], path: Path) -> None:
    """Raise InputError, with the name of the family, unless each family is a list of text."""
    families = raw.get("families")
    for name, labels in families.items() if isinstance(families, dict) else ():
        place = f"{path}: families.{shorten(name)}"
        if not isinstance(labels, list):
            raise InputError(f"{place}: expected a list of labels, found {_describe(labels)}")
        for i, label in enumerate(labels):
            if not isinstance(label, str):
                raise InputError(f"{place}[{i}]: expected text, found {_describe(label)}")


def _describe(value: Any) -> str:
    """Return the kind of a value of TOML."""
    kinds = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return kinds.get(type(value), "a time")
