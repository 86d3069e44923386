"""Types of the requests and responses about feedback."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from musix_runtime.schemas import Action, Id, Request, Response, TrainedModel

EVENT_LIMIT = 1000  # in one request
EXPOSURE_LIMIT = 100  # in one request
TRACK_LIMIT = 1000  # in one list
MAX_PLAY_MS = 86_400_000

Time = Annotated[datetime, Meta(tz=True)]
Position = Annotated[int, Meta(ge=1, le=10_000)]


class EventRequest(Request, frozen=True):
    """One thing that a listener did with a track. The id makes the event unique: sent again, it is not counted again.

    `list_id` is that of the recommendation from which the track came, `position` its place there, from 1 on.
    """

    event_id: Id
    user_id: Id
    track_id: Id
    action: Action
    occurred_at: Time
    list_id: Id | None = None
    position: Position | None = None
    session_id: Id | None = None
    ms_played: Annotated[int, Meta(ge=0, le=MAX_PLAY_MS)] | None = None


class EventsRequest(Request, frozen=True):
    """Events, and the time of the client's clock when it sends them, also when it sends them again."""

    sent_at: Time
    events: Annotated[list[EventRequest], Meta(max_length=EVENT_LIMIT)]


class Envelope(Request, frozen=True):
    """An EventsRequest whose events may be EventRequests, or decoded JSON that is not checked yet."""

    sent_at: Time
    events: Annotated[list[Any], Meta(max_length=EVENT_LIMIT)]


class ExposedTrack(Request, frozen=True):
    """A track of a list that a host made; its position is by default its place in the list, from 1 on."""

    id: Id
    position: Position | None = None
    score: float | None = None


class ExposureRequest(Request, frozen=True):
    """A list that a host made and showed to a listener, by default now."""

    user_id: Id
    tracks: Annotated[list[ExposedTrack], Meta(max_length=TRACK_LIMIT)]
    shown_at: Time | None = None


class ExposuresRequest(Request, frozen=True):
    """Lists that a host made and showed."""

    exposures: Annotated[list[ExposureRequest], Meta(max_length=EXPOSURE_LIMIT)]


class ExposedList(Response, frozen=True):
    """The id of a list, for its events."""

    list_id: str


class ExposuresResponse(Response, frozen=True):
    """The lists, in order. All are stored, but those of listeners who were forgotten."""

    exposures: list[ExposedList]


class EventResult(Response, frozen=True):
    """What became of an event. A refused one has the reason; its id is null if the request has none."""

    event_id: str | None
    status: Literal["accepted", "duplicate", "refused"]
    reason: str | UnsetType = UNSET


class EventsResponse(Response, frozen=True):
    """The result of each event, in order. Accepted events are stored."""

    events: list[EventResult]


JobState = Literal["waiting", "running", "done", "refused", "nothing_to_do", "failed", "cancelled"]


class TrainRequest(Request, frozen=True):
    """Request to train all models. The parts of a bundle learn from each other, so none is trained alone."""

    model: TrainedModel


class TrainResponse(Response, frozen=True):
    """The job of the training, and the median of the seconds that earlier ones took, null if there is none."""

    status: Literal["training_started"]
    job_id: str
    estimated_time: float | None


class Job(Response, frozen=True):
    """A job. It is `refused` if a gate failed. `started_at` is the beginning of the last of its `attempts`, `progress`
    the last line of its output, `reason` tells why it is over or waits again."""

    id: str
    name: str
    model: str
    state: JobState
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    cancel_requested: bool
    progress: str
    reason: str | None


class LoggedJob(Job, frozen=True):
    """A job with the end of its output."""

    log: str


class ForgetResponse(Response, frozen=True):
    """The number of events and of exposures of the listener that were deleted."""

    events: int
    exposures: int
