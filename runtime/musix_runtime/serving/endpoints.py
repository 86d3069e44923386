"""Endpoints of the models. An endpoint reads a request, decodes it, calls the engine and encodes the response.

The table in `routes.py` says which endpoint answers which path. A small request goes to the `DynamicBatcher`, which
calls `handle_batch` on the event loop; a large one goes to a worker thread, which calls `handle_body`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
from anyio import CapacityLimiter, to_thread
from starlette.types import Receive, Scope, Send

from musix_runtime.schemas import RecommendResponse
from musix_runtime.serving.batching import BatchHandler, DynamicBatcher, overloaded
from musix_runtime.serving.feedback import Feedback
from musix_runtime.serving.idle_worker import IdleWorker
from musix_runtime.serving.metrics import Metrics
from musix_runtime.serving.recall_audit import RecallAudit
from musix_runtime.serving.request_body import INLINE_BYTES, BatchDecoder, Decoder, read_body
from musix_runtime.serving.request_context import SCOPE_KEY, RequestContext
from musix_runtime.serving.responses import from_http_exception
from musix_runtime.serving.shadowing import Shadowing
from musix_runtime.settings import Settings
from musix_runtime.timing import mark_all

if TYPE_CHECKING:
    from musix_runtime.serving.routes import Route

JSON = (b"content-type", b"application/json")


class WorkerThreads:
    """Threads that answer large requests, which take longer than small requests may wait.

    `count` requests run at a time, by default `max_concurrent_batches`, and `max_queue` more wait, at most `wait_s`.
    """

    def __init__(self, settings: Settings, count: int | None = None, wait_s: float = math.inf) -> None:
        count = count or settings.max_concurrent_batches
        self._threads = CapacityLimiter(count)
        self._running = 0
        self._limit = count + settings.max_queue
        self._wait_s = wait_s

    async def run(self, endpoint: "ModelEndpoint", context: RequestContext, body: bytes) -> bytes:
        """Return what `endpoint.handle_body` returns. Raises HTTPException 503 when too many wait, or one too long."""
        if self._running >= self._limit:
            raise overloaded()
        self._running += 1
        try:
            return await to_thread.run_sync(
                self._handle, endpoint, context, body, perf_counter(), limiter=self._threads
            )
        finally:
            self._running -= 1

    def _handle(self, endpoint: "ModelEndpoint", context: RequestContext, body: bytes, queued: float) -> bytes:
        if perf_counter() - queued > self._wait_s:
            raise overloaded()
        return endpoint.handle_body(context, body)


@dataclass(frozen=True)
class Resources:
    """The resources that the endpoints of one application share."""

    settings: Settings
    batcher: DynamicBatcher
    threads: WorkerThreads
    idle_worker: IdleWorker
    audit: RecallAudit
    shadowing: Shadowing
    feedback: Feedback | None = None

    @classmethod
    def from_settings(cls, settings: Settings, metrics: Metrics, feedback: Feedback | None = None) -> "Resources":
        """Return the resources of a new application."""
        batcher = DynamicBatcher(settings.max_queue)
        worker = IdleWorker(batcher.is_idle)
        audit = RecallAudit(worker, metrics.observe_recall, settings.audit_every)
        shadowing = Shadowing(worker, metrics.observe_shadow)
        return cls(settings, batcher, WorkerThreads(settings), worker, audit, shadowing, feedback)


class ModelEndpoint(ABC):
    """An ASGI endpoint that a model answers, always in a worker thread."""

    def __init__(self, route: "Route", resources: Resources) -> None:
        self.path = route.path
        self.settings = resources.settings
        self.threads = resources.threads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: RequestContext = scope[SCOPE_KEY]
        context.route = self.path
        body = await read_body(scope, receive, self.settings)
        await _send(send, await self.threads.run(self, context, body))

    @abstractmethod
    def handle_body(self, context: RequestContext, body: bytes) -> bytes:
        """Return the response to one request. Called in a worker thread."""


class BatchedEndpoint(ModelEndpoint, BatchHandler):
    """An ASGI endpoint that answers small requests on the event loop, several at once when several wait.

    One call for 16 requests takes less time than polling the sockets between them.
    """

    def __init__(self, route: "Route", resources: Resources) -> None:
        super().__init__(route, resources)
        self.decoder = Decoder(route.request)
        self.max_batch_size = route.max_batch_size
        self.batcher = resources.batcher
        self.overloaded = from_http_exception(overloaded())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: RequestContext = scope[SCOPE_KEY]
        context.route = self.path
        if self.batcher.is_full():
            await self.overloaded(scope, receive, send)  # without reading the body
            return
        body = await read_body(scope, receive, self.settings)
        if len(body) > INLINE_BYTES:
            response = await self.threads.run(self, context, body)
        else:
            self.decode(context, body)
            response = await self.batcher.submit(self, context, batch_key=context.engine)
        await _send(send, response)

    def decode(self, context: RequestContext, body: bytes) -> None:
        """Read the request in a body. Raises RequestError."""
        context.request = self.decoder.decode(body)

    def handle_body(self, context: RequestContext, body: bytes) -> bytes:
        """Return the response to one large request."""
        self.decode(context, body)
        (response,) = self.handle_batch([context])
        return response

    def handle_batch(self, requests: list[RequestContext]) -> list[bytes]:
        """Return the encoded responses to requests of one engine, in order."""
        mark_all([context.timer for context in requests], "HTTP")
        encoded = []
        for context, answer in zip(requests, self.predict(requests), strict=True):
            encoded.append(success(answer))
            context.timer.mark("JSON")
        return encoded

    @abstractmethod
    def predict(self, contexts: list[RequestContext]) -> list[Any]:
        """Return the engine's answer to each request, in order."""


class Recommend(BatchedEndpoint):
    """Answers RecommendRequest with RecommendResponse, and records the list if there is a feedback store."""

    def __init__(self, route: "Route", resources: Resources) -> None:
        super().__init__(route, resources)
        self.feedback = resources.feedback
        self.audit = resources.audit
        self.shadowing = resources.shadowing

    def decode(self, context: RequestContext, body: bytes) -> None:
        """Read the request in a body, and choose the engine that answers its user."""
        super().decode(context, body)
        context.route_to_variant(context.request.user_id)

    def predict(self, contexts: list[RequestContext]) -> list[Any]:
        """Recommend tracks to the user of each request."""
        engine, start = contexts[0].engine, perf_counter()
        requests, timers = [context.request for context in contexts], [context.timer for context in contexts]
        try:
            answers = engine.recommend_batch(requests, timers, checked=True)
        except Exception as error:
            if self.feedback and len(contexts) == 1:  # else each request of the batch is answered alone
                self.feedback.record_error(contexts[0], error, perf_counter() - start)
            raise
        seconds = perf_counter() - start
        return [self._complete(*each, seconds) for each in zip(contexts, answers, strict=True)]

    def _complete(self, context: RequestContext, answer: RecommendResponse, seconds: float) -> RecommendResponse:
        """Return the answer with its variant and the id of its list, where there are such."""
        context.source = answer.source
        self.audit.offer(context.engine, context.request)
        if context.shadow and context.shadow.engine is not context.engine:
            self.shadowing.offer(context.shadow, context.request, answer, seconds)
        if context.variant:
            answer = msgspec.structs.replace(answer, variant=context.variant)
        return self.feedback.record(context, answer, seconds) if self.feedback else answer


class Classify(BatchedEndpoint):
    """Answers ClassifyRequest with ClassifyResponse."""

    def predict(self, contexts: list[RequestContext]) -> list[Any]:
        """Predict genre and mood of the track of each request."""
        engine = contexts[0].engine
        if len(contexts) == 1:
            answers = [engine.classify(contexts[0].request, checked=True)]
        else:
            answers = engine.classify_batch([context.request for context in contexts], checked=True)
        mark_all([context.timer for context in contexts], "answer")
        for context, answer in zip(contexts, answers, strict=True):
            context.classified = (answer,)
        return answers


class Similar(BatchedEndpoint):
    """Answers SimilarRequest with SimilarResponse."""

    def predict(self, contexts: list[RequestContext]) -> list[Any]:
        """Find the tracks nearest to the track of each request, one request after another."""
        answers = []
        for context in contexts:
            context.timer.mark("HTTP")
            answers.append(context.engine.similar(context.request, checked=True))
            context.timer.mark("answer")
        return answers


class ClassifyMany(ModelEndpoint):
    """Answers a list of ClassifyRequest with a list of ClassifyResponse, in order. It takes tens of milliseconds."""

    def __init__(self, route: "Route", resources: Resources) -> None:
        super().__init__(route, resources)
        self.decoder = BatchDecoder()

    def handle_body(self, context: RequestContext, body: bytes) -> bytes:
        """Predict genre and mood of every track of one request."""
        context.classified = context.engine.classify_batch(self.decoder.decode(body), checked=True)
        return success(context.classified)


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return headers as lines of HTTP/1.1."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def success(data: Any) -> bytes:
    """Return the body of a successful response."""
    return b'{"success":true,"data":' + msgspec.json.encode(data) + b"}"


async def _send(send: Send, body: bytes) -> None:
    headers = [JSON, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
