"""Every error that musix raises on purpose.

    MusixError
    ├── InputError                what the caller gave is wrong        exit 2
    │   ├── RecipeError           a recipe's key or value
    │   ├── TableError            a table's file, column or rows
    │   ├── RequestError          a request's fields, each by its path  HTTP 422
    │   ├── UnknownTrackError     a track id that is not in the bundle  HTTP 404
    │   ├── OutputError           a place that cannot be written
    │   └── StoreError            a name or pointer that a store lacks
    │       └── VersionError      a version that a store does not take
    ├── EvaluationError           a measurement that would deceive     exit 3
    │   └── LeakError             what is measured was learned from
    ├── GateError                 a floor or budget of the recipe      exit 3
    ├── ParityError               ONNX and native answers differ       exit 4
    ├── RebuildError              a rebuild gave other bytes           exit 4
    ├── WorkerError               worker processes cannot start        exit 4
    └── BundleError               the bundle is not what it claims     exit 4
        ├── ManifestError         the manifest itself
        ├── FormatVersionError    a format newer than this runtime
        ├── MissingFileError      listed, not there
        ├── ExtraFileError        there, not listed
        ├── FileKindError         a link, a folder, a device
        ├── SizeError             longer or shorter than listed
        ├── HashError             other bytes than listed
        ├── LayoutError           an array's dtype, shape or content, a graph's inputs, an index's size
        ├── NotReadyError         changed on the disk while served  HTTP 503
        ├── SignatureError        not signed by the key that is trusted
        └── GoldenError           other answers than its native models gave

A message names the place, what was expected and what was found.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar


class MusixError(Exception):
    """The root: `except MusixError` catches whatever musix refuses."""

    exit_code: ClassVar[int] = 1


class InputError(MusixError):
    """What the caller gave is wrong; the message says where and how."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe has an unknown key or a value of the wrong type or range."""


class TableError(InputError):
    """A table is missing, unreadable, empty, or a column or row breaks the schema."""


MAX_SHOWN_LENGTH = 100  # characters of a caller's text that a message repeats
MAX_FIELD_ERRORS = 20  # that one error names


def shorten(text: str, length: int = MAX_SHOWN_LENGTH) -> str:
    """Return the text, or its first `length` characters with an ellipsis when it is longer."""
    return text if len(text) <= length else text[:length] + "…"


@dataclass(frozen=True)
class FieldError:
    """One field of a request that is wrong: its path, and what was expected there."""

    path: str
    message: str


class RequestError(InputError):
    """A request has wrong fields. `field_errors` has the first `MAX_FIELD_ERRORS` of them, `more` counts the others."""

    def __init__(self, field_errors: list[FieldError]) -> None:
        self.field_errors = field_errors[:MAX_FIELD_ERRORS]
        self.more = len(field_errors) - len(self.field_errors)
        named = "; ".join(f"{each.path}: {each.message}" for each in self.field_errors)
        super().__init__(f"{named}; and {self.more:,} more" if self.more else named)


class UnknownTrackError(InputError):
    """A track id that the bundle's catalogue does not hold."""

    def __init__(self, track_id: str, path: str = "trackId") -> None:
        super().__init__(f"{path}: expected a track of the catalogue, found {shorten(track_id)!r}")
        self.path = path


class OutputError(InputError):
    """A place where something should be written is taken, or is not a folder."""


class StoreError(InputError):
    """A store lacks the name, an earlier version, or a pointer that can be read."""


class VersionError(StoreError):
    """A store does not take this version: it is lower than the live one, or there with other content."""


class EvaluationError(MusixError):
    """A measurement would not mean what it says; no figure was given."""

    exit_code = 3


class LeakError(EvaluationError):
    """What is measured was learned from, or the truth was made from the prediction."""


class GateError(MusixError):
    """A bundle is below a quality floor or above a budget of its recipe; it was not kept."""

    exit_code = 3


class ParityError(MusixError):
    """A converted model answers differently from the model it was made of."""

    exit_code = 4


class RebuildError(MusixError):
    """A bundle built again from its provenance has another digest."""

    exit_code = 4


class WorkerError(MusixError):
    """The worker processes of a server end as soon as they start."""

    exit_code = 4


class BundleError(MusixError):
    """The bundle is not what its manifest claims. Nothing of it was used."""

    exit_code = 4


class ManifestError(BundleError):
    """The manifest cannot be read or contradicts itself."""


class FormatVersionError(BundleError):
    """The bundle is of a format that this runtime does not know."""


class MissingFileError(BundleError):
    """A file that the manifest lists is not there."""


class ExtraFileError(BundleError):
    """A file is there that the manifest does not list."""


class FileKindError(BundleError):
    """A link, folder or device stands where a plain file is listed."""


class SizeError(BundleError):
    """A file is longer or shorter than the manifest says."""


class HashError(BundleError):
    """A file's SHA-256 differs from the manifest's."""


class LayoutError(BundleError):
    """An array, graph or index does not have the type, shape or content that the format asks for."""


class NotReadyError(BundleError):
    """The bundle that was served has changed on the disk, and no good one is there yet."""


class SignatureError(BundleError):
    """The bundle is not signed, or not by the key that is trusted."""


class GoldenError(BundleError):
    """The bundle's answers differ from those that its native models gave at export."""


@contextmanager
def refusing(place: object) -> Iterator[None]:
    """Raise a BundleError for every error within: whatever the bytes of a bundle do to a library, it is refused."""
    try:
        yield
    except BundleError:
        raise
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        raise BundleError(f"{place}: expected a bundle that can be opened, found {found[:1000]}") from error
