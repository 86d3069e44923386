"""Events as they are stored: ids without their URIs, times by the server's clock."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from musix_runtime.errors import FieldError, RequestError
from musix_runtime.feedback.schemas import EventRequest
from musix_runtime.models.catalog import strip_uri

MAX_ID_BYTES = 128  # as in the tables of the trainer
ID_FIELDS = ("eventId", "userId", "trackId", "sessionId", "listId")
MS = timedelta(milliseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CLIENT_WAIT_S = 2.0  # for other writers of the database, while a client waits for the answer
SECOND_MS, DAY_MS = 1000, 86_400_000


class Event(Struct, frozen=True):
    """A row of the table `events`. Times are milliseconds since 1970 in UTC."""

    event_id: str
    received_ms: int
    occurred_ms: int
    user_id: str
    session_id: str | None
    list_id: str | None
    track_id: str
    position: int | None
    action: str
    ms_played: int | None


@dataclass(frozen=True)
class TimeLimits:
    """How far from the time of receipt an event may lie."""

    max_ahead_s: int
    max_age_days: int

    def check(self, age_ms: int, path: str, reference: str) -> None:
        """Raise RequestError for the time at `path`, which lies `age_ms` before `reference`, if that is too far."""
        if age_ms < -SECOND_MS * self.max_ahead_s:
            seconds = -(age_ms // SECOND_MS)  # rounded up
            raise _wrong(path, f"expected at most {self.max_ahead_s:,} s after {reference}, found {seconds:,} s")
        if age_ms > DAY_MS * self.max_age_days:
            days = -(-age_ms // DAY_MS)  # rounded up
            raise _wrong(path, f"expected at most {self.max_age_days:,} days before {reference}, found {days:,} days")


def milliseconds(time: datetime) -> int:
    """Return the milliseconds since 1970 of a time with a time zone."""
    return (time - EPOCH) // MS


def to_event(request: EventRequest, sent_at: datetime, received_ms: int, limits: TimeLimits) -> Event:
    """Return the event of a request that was received at `received_ms`.

    The client's clock may be wrong, but its differences are right: the event occurred as long before the receipt as it
    did before the sending. Raises RequestError for an id that cannot be stored, and a time beyond the limits.
    """
    age_ms = (sent_at - request.occurred_at) // MS
    limits.check(age_ms, "occurredAt", "sentAt")
    if received_ms < age_ms:  # days are counted from 1970
        raise _wrong("occurredAt", f"expected a time of 1970 or later, found {request.occurred_at}")
    event = Event(
        event_id=request.event_id,
        received_ms=received_ms,
        occurred_ms=received_ms - age_ms,
        user_id=request.user_id,
        session_id=request.session_id,
        list_id=request.list_id,
        track_id=strip_uri(request.track_id),
        position=request.position,
        action=request.action,
        ms_played=request.ms_played,
    )
    ids = event.event_id, event.user_id, event.track_id, event.session_id or "", event.list_id or ""
    if not storable("".join(ids)):  # so long together, or one is wrong
        for name, value in zip(ID_FIELDS, ids, strict=True):
            check_storable(name, value)
    return event


def check_storable(path: str, text: str) -> None:
    """Raise RequestError for an id that cannot be stored."""
    if not storable(text):
        raise _wrong(path, f"expected at most {MAX_ID_BYTES} bytes without NUL, found {text[:20]!r}")


def storable(text: str) -> bool:
    """Return whether an id can be stored, and read by the trainer. PostgreSQL has no text with NUL."""
    return "\0" not in text and len(text.encode()) <= MAX_ID_BYTES


def _wrong(path: str, message: str) -> RequestError:
    return RequestError([FieldError(path, message)])
