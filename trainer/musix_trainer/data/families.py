"""Genre families: which labels of the tracks table are of which family, read from TOML."""

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from musix_runtime.bundle.manifest import MAX_FAMILIES, SourceInfo
from musix_runtime.errors import InputError

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
        content = path.read_bytes()
        document = msgspec.convert(tomllib.loads(content.decode()), _Document)
    except OSError as error:
        raise InputError(f"{path}: expected a file of genre families, found: {error.strerror}") from error
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise InputError(f"{path}: expected TOML with the table families, found: {error}") from error
    labels = [label for members in document.families.values() for label in members] + document.no_family
    repeated = sorted({label for label in labels if labels.count(label) > 1})
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
