"""Numbered JSON files of a registry: REGISTRY/NAME/FOLDER/NUMBER.json. The numbers go from 1 on.

A file is replaced by a rename, so readers need no lock.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from musix_runtime.atomic import check_writable, flush, write_file
from musix_runtime.bundle.archive import read_small
from musix_runtime.errors import BundleError, MissingFileError, StoreError, shorten

NUMBER = r"[1-9][0-9]{0,8}"
FILE = re.compile(rf"({NUMBER})\.json\Z")
MAX_FILE_BYTES = 2**20


class Numbered(Protocol):
    """What such a file holds: a msgspec Struct with the name of the bundle and its own number."""

    @property
    def name(self) -> str: ...

    @property
    def number(self) -> int: ...


N = TypeVar("N", bound=Numbered)


@dataclass(frozen=True)
class NumberedFiles(Generic[N]):
    """The files of one kind, in the folder `subfolder` of a bundle's name."""

    kind: type[N]
    subfolder: str
    noun: str  # with its article
    missing: type[StoreError]  # the error when there is no such file
    advice: str  # how to go on when a file is broken, and what that means

    def numbers(self, folder: Path) -> list[int]:
        """Return the numbers of the files of the name in `folder`, ascending. Raises StoreError."""
        place = folder / self.subfolder
        try:
            names = [path.name for path in place.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{place}: expected a folder that can be read, found: {error.strerror}") from error
        return sorted(int(found[1]) for found in map(FILE.match, names) if found)

    def next_number(self, folder: Path) -> int:
        """Return the number of a new file. Raises StoreError."""
        return max(self.numbers(folder), default=0) + 1

    def latest(self, folder: Path) -> N | None:
        """Return what the file with the largest number holds, None without one. Raises StoreError for a broken one."""
        numbers = self.numbers(folder)
        return self.read(folder, numbers[-1]) if numbers else None

    def find(self, folder: Path, number: int | None) -> N:
        """Return what a file holds, by default the latest. Raises `missing` for none, StoreError for a broken one."""
        found = self.latest(folder) if number is None else self.read(folder, number)
        if found is None:
            raise self.missing(f"{folder}: expected {self.noun}, found none")
        return found

    def read(self, folder: Path, number: int) -> N:
        """Return what a file holds. Raises `missing` for none, StoreError for a broken one."""
        file = folder / self.subfolder / f"{number}.json"
        try:
            found = self.convert(f"{file}: expected {self.noun}, found", _decode(file))
            if (found.name, found.number) != (folder.name, number):
                raise StoreError(f"{file}: expected {folder.name}/{number}, found {found.name}/{found.number}")
        except MissingFileError as error:
            raise self.missing(f"{file}: expected {self.noun}, found none") from error
        except (StoreError, BundleError) as error:
            raise StoreError(f"{error}; {self.advice}") from error
        return found

    def convert(self, place: str, content: Any) -> N:
        """Return what values are, of decoded JSON or of a caller. Raises StoreError, which begins with `place`."""
        try:
            return msgspec.convert(content, self.kind)
        except msgspec.ValidationError as error:
            raise StoreError(f"{place}: {shorten(str(error), 300)}") from error

    def write(self, folder: Path, item: N) -> None:
        """Write a file, under the lock of the name. Raises StoreError for text that is not UTF-8, before all else."""
        place = folder / self.subfolder
        try:
            content = msgspec.json.format(msgspec.json.encode(item), indent=2) + b"\n"
        except UnicodeEncodeError as error:
            found = shorten(repr(error.object))
            raise StoreError(f"{folder}: expected {self.noun} of text in UTF-8, found {found}") from error
        check_writable(place)
        write_file(place / f"{item.number}.json", content)
        flush(place)


def _decode(file: Path) -> Any:
    """Return the decoded JSON of a file. Raises BundleError when it cannot be opened, StoreError for other text."""
    try:
        return msgspec.json.decode(read_small(file, MAX_FILE_BYTES))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise StoreError(f"{file}: expected JSON that can be read, found: {error}") from error
