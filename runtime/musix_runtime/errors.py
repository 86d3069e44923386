"""The errors that musix raises on purpose.

    MusixError
    ├── InputError                wrong input                                   exit 2
    │   ├── RecipeError           a wrong key or value of a recipe
    │   ├── TableError            a wrong file, column or row of a table
    │   ├── RequestError          wrong fields of a request                     HTTP 422
    │   ├── UnknownTrackError     a track id that is not in the bundle          HTTP 404
    │   ├── OutputError           a path that cannot be written
    │   │   └── BusyError         a path that another process writes
    │   ├── JobError              a job that is over                            HTTP 409
    │   │   └── UnknownJobError   a job that does not exist                     HTTP 404
    │   └── StoreError            a name or pointer that a registry does not have
    │       ├── VersionError      a version that cannot be published
    │       ├── UnknownExperimentError  an experiment that does not exist   HTTP 404
    │       ├── UnknownRolloutError     a rollout that does not exist
    │       ├── ChangedRolloutError     a rollout that another process has changed
    │       └── UnknownShadowError      a shadow that does not exist
    ├── EvaluationError           a measurement that would be misleading        exit 3
    │   └── LeakError             a measurement on training data
    ├── GateError                 a figure beyond its limit in the recipe       exit 3
    ├── ParityError               answers of ONNX and native models differ      exit 4
    ├── RebuildError              a rebuild has other bytes                     exit 4
    ├── WorkerError               worker processes cannot start                 exit 4
    ├── FeedbackError             the feedback database does not answer         HTTP 503, exit 4
    └── BundleError               a bundle that differs from its manifest       exit 4
        ├── ManifestError         a wrong manifest
        ├── FormatVersionError    another format version than this runtime reads
        ├── MissingFileError      a listed file that does not exist
        ├── ExtraFileError        a file that is not listed
        ├── FileKindError         a link, folder or device instead of a file
        ├── SizeError             another size than listed
        ├── HashError             another SHA-256 than listed
        ├── LayoutError           wrong dtype, shape or values of an array, ports of a graph, or size of an index
        ├── NotReadyError         a bundle that has changed while it is served  HTTP 503
        ├── SignatureError        no signature by the trusted key
        └── GoldenError           other answers than the native models gave

A message has the place, what was expected and what was found.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar


class MusixError(Exception):
    """Base class of all errors of musix."""

    exit_code: ClassVar[int] = 1


class InputError(MusixError):
    """The input is wrong; the message says where and why."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe has an unknown key or a value of the wrong type or range."""


class TableError(InputError):
    """A table is missing, unreadable or empty, or has a column or row that does not match the schema."""


MAX_MESSAGE_LENGTH = 2000  # characters of a BundleError
MAX_SHOWN_LENGTH = 100  # characters of an input text in a message
MAX_FIELD_ERRORS = 20  # in one RequestError


def shorten(text: str, length: int = MAX_SHOWN_LENGTH) -> str:
    """Return the text, or its first `length` characters with an ellipsis when it is longer."""
    return text if len(text) <= length else text[:length] + "…"


@dataclass(frozen=True)
class FieldError:
    """The path of a wrong field of a request, and the value that was expected."""

    path: str
    message: str


class RequestError(InputError):
    """A request has wrong fields. `field_errors` has the first `MAX_FIELD_ERRORS` of them, `more` counts the others."""

    def __init__(self, field_errors: list[FieldError]) -> None:
        self.field_errors = field_errors[:MAX_FIELD_ERRORS]
        self.more = len(field_errors) - len(self.field_errors)
        text = "; ".join(f"{error.path}: {error.message}" for error in self.field_errors)
        super().__init__(f"{text}; and {self.more:,} more" if self.more else text)


class UnknownTrackError(InputError):
    """A track id is not in the catalogue of the bundle."""

    def __init__(self, track_id: str, path: str = "trackId") -> None:
        super().__init__(f"{path}: expected a track of the catalogue, found {shorten(track_id)!r}")
        self.path = path


class OutputError(InputError):
    """A path to write to exists, or cannot be written."""


class BusyError(OutputError):
    """Another process writes the path at the moment."""


class JobError(InputError):
    """A job is over, so it cannot be cancelled."""


class UnknownJobError(JobError):
    """The feedback database does not have the job."""


class StoreError(InputError):
    """A registry does not have the name or an earlier version, or its pointer cannot be read."""


class VersionError(StoreError):
    """A version cannot be published: it is lower than the live one, or exists with other content."""


class UnknownExperimentError(StoreError):
    """A registry does not have the experiment."""


class UnknownRolloutError(StoreError):
    """A registry does not have the rollout."""


class ChangedRolloutError(StoreError):
    """Another process has changed the rollout that was to be changed."""


class UnknownShadowError(StoreError):
    """A registry does not have the shadow."""


class EvaluationError(MusixError):
    """A measurement would be misleading, so no figure was computed."""

    exit_code = 3


class LeakError(EvaluationError):
    """The data of a measurement were used in training, or the truth was made from the prediction."""


class GateError(MusixError):
    """A bundle is beyond a limit of its recipe, and was not kept."""

    exit_code = 3


class ParityError(MusixError):
    """The answers of a converted model differ from those of the native model."""

    exit_code = 4


class RebuildError(MusixError):
    """A bundle that was built again from its provenance has another digest."""

    exit_code = 4


class WorkerError(MusixError):
    """The worker processes of a server end as soon as they start."""

    exit_code = 4


class FeedbackError(MusixError):
    """The feedback database does not answer. Nothing was stored; the request may be sent again."""

    exit_code = 4


class BundleError(MusixError):
    """A bundle differs from its manifest. It was not used. A message that quotes the bundle is cut at
    `MAX_MESSAGE_LENGTH` characters."""

    exit_code = 4

    def __init__(self, message: str) -> None:
        super().__init__(shorten(message, MAX_MESSAGE_LENGTH))


class ManifestError(BundleError):
    """The manifest cannot be read or contradicts itself."""


class FormatVersionError(BundleError):
    """The bundle has another format version than this runtime reads."""


class MissingFileError(BundleError):
    """A file that the manifest lists does not exist."""


class ExtraFileError(BundleError):
    """The bundle has a file that the manifest does not list."""


class FileKindError(BundleError):
    """A listed file is a link, folder or device."""


class SizeError(BundleError):
    """The size of a file differs from the manifest."""


class HashError(BundleError):
    """The SHA-256 of a file differs from the manifest."""


class LayoutError(BundleError):
    """An array, graph or index does not have the type, shape or values that the format requires."""


class NotReadyError(BundleError):
    """The served bundle has changed on the disk, and no valid one has been opened since."""


class SignatureError(BundleError):
    """The bundle is not signed, or not by the trusted key."""


class GoldenError(BundleError):
    """The answers of the bundle differ from those of the native models at export."""


@contextmanager
def refusing(place: object) -> Iterator[None]:
    """Convert any error in the block to a BundleError: libraries may raise any error for a broken bundle."""
    try:
        yield
    except BundleError:
        raise
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        raise BundleError(f"{place}: expected a bundle that can be opened, found {found}") from error
