"""Endpoints about feedback: clients send events and lists, the administrator forgets a listener or reads a report."""

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from musix_runtime.clock import now_ms
from musix_runtime.errors import RequestError
from musix_runtime.feedback.events import (
    CLIENT_WAIT_S,
    Event,
    TimeLimits,
    check_storable,
    milliseconds,
    storable,
    to_event,
)
from musix_runtime.feedback.exposures import REFUSED, WRITTEN, Exposure
from musix_runtime.feedback.reports import MonitoringResponse
from musix_runtime.feedback.schemas import (
    Envelope,
    EventRequest,
    EventResult,
    EventsResponse,
    ExposedList,
    ExposureRequest,
    ExposuresRequest,
    ExposuresResponse,
    ForgetResponse,
)
from musix_runtime.models.catalog import strip_uri
from musix_runtime.parsing import parse
from musix_runtime.schemas import Id
from musix_runtime.serving.endpoints import ModelEndpoint, Resources, WorkerThreads, success
from musix_runtime.serving.feedback import ShownTrack, existing, new_list_id
from musix_runtime.serving.request_body import Decoder, EventsDecoder
from musix_runtime.serving.request_context import RequestContext
from musix_runtime.serving.responses import as_json, error_response
from musix_runtime.serving.server_endpoints import ServerEndpoint, ServerState

if TYPE_CHECKING:
    from musix_runtime.serving.routes import Route

EVENT_THREADS = 8
MAX_REASON_BYTES = 300  # of a refused event: a thousand of them fit into 1 MB
FORGOTTEN = "userId: expected a listener who was not forgotten, found one who was"
NO_REPORT = "reports: expected one about {name}, found none; use: musix monitor REGISTRY {name} --feedback URL"


class RecordEvents(ModelEndpoint):
    """Answers EventsRequest with EventsResponse. It has threads of its own: they wait for the database, which commits
    the events of all that wait at once."""

    def __init__(self, route: "Route", resources: Resources) -> None:
        super().__init__(route, resources)
        self.feedback = existing(resources.feedback)
        self.threads = WorkerThreads(resources.settings, EVENT_THREADS, CLIENT_WAIT_S)
        self.decoder = EventsDecoder()

    def handle_body(self, context: RequestContext, body: bytes) -> bytes:
        """Store the events that are right and new, and say what became of each, in order."""
        received_ms = now_ms() - int(1000 * context.seconds)
        envelope = self.decoder.decode(body)
        checked = [self._check(raw, envelope, received_ms) for raw in envelope.events]
        outcomes = iter(self.feedback.store.add_events([item for item in checked if isinstance(item, Event)]))
        results = [_result(item, next(outcomes)) if isinstance(item, Event) else item for item in checked]
        return success(EventsResponse(results))

    def _check(self, raw: Any, envelope: Envelope, received_ms: int) -> Event | EventResult:
        """Return an event, or the reason why it is refused. It may be decoded JSON, which may be wrong."""
        try:
            request = raw if isinstance(raw, EventRequest) else parse(raw, EventRequest)
            return to_event(request, envelope.sent_at, received_ms, self.feedback.limits)
        except RequestError as error:
            return _refused(raw, str(error))
        except UnicodeEncodeError as error:
            return _refused(raw, f"event: expected texts in UTF-8, found {error.object[error.start]!r}")


class RecordExposures(ModelEndpoint):
    """Answers ExposuresRequest with ExposuresResponse. It has threads of its own: they may wait for the database."""

    def __init__(self, route: "Route", resources: Resources) -> None:
        super().__init__(route, resources)
        self.feedback = existing(resources.feedback)
        self.threads = WorkerThreads(resources.settings, wait_s=CLIENT_WAIT_S)
        self.decoder = Decoder(ExposuresRequest)

    def handle_body(self, context: RequestContext, body: bytes) -> bytes:
        """Store the lists, with the variants of their users, and return their ids, in order."""
        received_ms = now_ms() - int(1000 * context.seconds)
        requests = self.decoder.decode(body).exposures
        for i, request in enumerate(requests):
            _check_exposure(f"exposures[{i}]", request, received_ms, self.feedback.limits)
        exposures = [_to_exposure(request, context, received_ms) for request in requests]
        written = self.feedback.store.add_exposures(exposures, CLIENT_WAIT_S)
        self.feedback.count(WRITTEN, written)
        self.feedback.count(REFUSED, len(exposures) - written)
        return success(ExposuresResponse([ExposedList(exposure.list_id) for exposure in exposures]))


class Forget(ServerEndpoint):
    """Forgets a listener, for requests with the administrator's token."""

    def __init__(self, route: "Route", state: ServerState) -> None:
        super().__init__(route, state)
        self.feedback = existing(state.feedback)

    async def respond(self, context: RequestContext, request: Request) -> Response:
        """Delete what is stored of the listener, refuse what comes later, and return how much was deleted."""
        await self.state.authorization.check(request)
        user_id = parse(request.path_params["id"], Id, "id")
        check_storable("id", user_id)
        deleted = await run_in_threadpool(self.feedback.store.forget, user_id, now_ms())
        return as_json({"success": True, "data": ForgetResponse(*deleted)})


class ShowReport(ServerEndpoint):
    """Answers with the latest report of monitoring, for requests with the administrator's token."""

    def __init__(self, route: "Route", state: ServerState) -> None:
        super().__init__(route, state)
        self.feedback = existing(state.feedback)

    async def respond(self, context: RequestContext, request: Request) -> Response:
        """Return the report about the name that is served, and its age; status 404 while there is none."""
        await self.state.authorization.check(request)
        name = context.bundle.manifest.name
        report = await run_in_threadpool(self.feedback.store.latest_report, name)
        if report is None:
            return error_response(404, NO_REPORT.format(name=name))
        return as_json({"success": True, "data": MonitoringResponse(report.age_s(now_ms()), report)})


def _check_exposure(path: str, request: ExposureRequest, received_ms: int, limits: TimeLimits) -> None:
    """Raise RequestError for an id that cannot be stored, and a time beyond the limits."""
    check_storable(f"{path}.userId", request.user_id)
    for i, track in enumerate(request.tracks):
        check_storable(f"{path}.tracks[{i}].id", strip_uri(track.id))
    if request.shown_at:
        limits.check(received_ms - milliseconds(request.shown_at), f"{path}.shownAt", "the receipt")


def _to_exposure(request: ExposureRequest, context: RequestContext, received_ms: int) -> Exposure:
    """Return the exposure of a list that no bundle made. It is part of the running experiment if that had begun."""
    time_ms = milliseconds(request.shown_at) if request.shown_at else received_ms
    experiment = context.traffic.experiment if context.traffic else None
    if experiment and time_ms < experiment.started_ms:
        experiment = None
    tracks = [
        ShownTrack(strip_uri(track.id), track.position or place, track.score)
        for place, track in enumerate(request.tracks, 1)
    ]
    return Exposure(
        list_id=new_list_id(),
        time_ms=time_ms,
        user_id=request.user_id,
        bundle="",
        digest="",
        source="external",
        context="{}",
        tracks=msgspec.json.encode(tracks).decode(),
        experiment=experiment.id if experiment else None,
        variant=experiment.variant(request.user_id) if experiment else None,
    )


def _refused(raw: Any, reason: str) -> EventResult:
    """Return the result of an event that is refused, with its id if it has one that can be stored and shown."""
    event_id = raw.event_id if isinstance(raw, EventRequest) else raw.get("eventId") if isinstance(raw, dict) else None
    known = isinstance(event_id, str) and event_id.isprintable() and storable(event_id)
    return EventResult(event_id if known else None, "refused", _shown(reason))


def _shown(text: str) -> str:
    """Return the beginning of a text, with control characters and halves of characters escaped."""
    letters = (
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text[:MAX_REASON_BYTES]
    )
    return "".join(letters).encode()[:MAX_REASON_BYTES].decode(errors="ignore")


def _result(event: Event, outcome: str) -> EventResult:
    if outcome == "forgotten":
        return EventResult(event.event_id, "refused", FORGOTTEN)
    return EventResult(event.event_id, "accepted" if outcome == "accepted" else "duplicate")
