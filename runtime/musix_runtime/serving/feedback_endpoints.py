"""Endpoints about feedback: clients send events, the administrator forgets a listener."""

from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from musix_runtime.errors import RequestError
from musix_runtime.feedback.events import Event, to_event
from musix_runtime.feedback.schemas import Envelope, EventRequest, EventResult, EventsResponse, ForgetResponse
from musix_runtime.schemas import TEXT_LIMIT, Id, parse
from musix_runtime.serving.endpoints import ModelEndpoint, Resources, WorkerThreads, success
from musix_runtime.serving.feedback import Feedback, now_ms
from musix_runtime.serving.request_body import Decoder
from musix_runtime.serving.request_context import RequestContext
from musix_runtime.serving.responses import as_json
from musix_runtime.serving.server_endpoints import ServerEndpoint, ServerState

if TYPE_CHECKING:
    from musix_runtime.serving.routes import Route

FORGOTTEN = "userId: expected a listener who was not forgotten, found one who was"


class RecordEvents(ModelEndpoint):
    """Answers EventsRequest with EventsResponse. It has threads of its own: they may wait for the database."""

    def __init__(self, route: "Route", resources: Resources) -> None:
        super().__init__(route, resources)
        self.feedback = _existing(resources.feedback)
        self.threads = WorkerThreads(resources.settings)
        self.decoder = Decoder(Envelope)

    def handle_body(self, context: RequestContext, body: bytes) -> bytes:
        """Store the events that are right and new, and say what became of each, in order."""
        received_ms = now_ms() - int(1000 * context.seconds)
        envelope = self.decoder.decode(body)
        checked = [self._check(raw, envelope, received_ms) for raw in envelope.events]
        outcomes = iter(self.feedback.store.add_events([item for item in checked if isinstance(item, Event)]))
        results = [_result(item, next(outcomes)) if isinstance(item, Event) else item for item in checked]
        return success(EventsResponse(results))

    def _check(self, raw: Any, envelope: Envelope, received_ms: int) -> Event | EventResult:
        """Return the event in decoded JSON, or the reason why it is refused."""
        try:
            return to_event(parse(raw, EventRequest), envelope.sent_at, received_ms, self.feedback.limits)
        except RequestError as error:
            event_id = raw.get("eventId") if isinstance(raw, dict) else None
            known = isinstance(event_id, str) and len(event_id) <= TEXT_LIMIT
            return EventResult(event_id if known else None, "refused", str(error))


class Forget(ServerEndpoint):
    """Forgets a listener, for requests with the administrator's token."""

    def __init__(self, route: "Route", state: ServerState) -> None:
        super().__init__(route, state)
        self.feedback = _existing(state.feedback)

    async def respond(self, context: RequestContext, request: Request) -> Response:
        """Delete what is stored of the listener, refuse what comes later, and return how much was deleted."""
        await self.state.authorization.check(request)
        user_id = parse(request.path_params["id"], Id, "id")
        deleted = await run_in_threadpool(self.feedback.store.forget, user_id, now_ms())
        return as_json({"success": True, "data": ForgetResponse(*deleted)})


def _result(event: Event, outcome: str) -> EventResult:
    if outcome == "forgotten":
        return EventResult(event.event_id, "refused", FORGOTTEN)
    return EventResult(event.event_id, "accepted" if outcome == "accepted" else "duplicate")


def _existing(feedback: Feedback | None) -> Feedback:
    if feedback is None:
        raise ValueError("routes: expected a feedback store for the routes about feedback, found none")
    return feedback
