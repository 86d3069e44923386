"""The API: endpoints that answer requests from the engine, and say who is sent away."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from anyio import CapacityLimiter, to_thread
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from musix_runtime.schemas import ClassifyRequest, RecommendRequest, SimilarRequest
from musix_runtime.serving.batching import Turns, busy
from musix_runtime.serving.middleware import KEY, Begin, Exchange, Over
from musix_runtime.serving.request_body import INLINE_BYTES, BatchDecoder, Decoder, read_body
from musix_runtime.serving.responses import failed
from musix_runtime.settings import Settings
from musix_runtime.timing import lap

JSON = (b"content-type", b"application/json")
Away = Callable[[bytes], bytes | None]  # from the path to the answer, from its headers on, to who is sent away
_Asked = list[tuple[Exchange, Any]]  # requests of one type, with their exchanges


def _recommend(asked: _Asked) -> list[Any]:
    stages = [exchange.stages for exchange, _ in asked]
    lap(stages, "HTTP")
    answers = asked[0][0].engine.recommend_batch([request for _, request in asked], stages)
    for (exchange, _), answer in zip(asked, answers, strict=True):
        exchange.source = answer.source
    return answers


def _classify(asked: _Asked) -> list[Any]:
    (exchange, request), *others = asked
    if others:
        answers = exchange.engine.classify_batch([request for _, request in asked])
    else:
        answers = [exchange.engine.classify(request)]
    for exchange, _ in asked:
        exchange.stages.lap("answer")
    return answers


def _similar(asked: _Asked) -> list[Any]:
    answers = []
    for exchange, request in asked:
        exchange.stages.lap("HTTP")
        answers.append(exchange.engine.similar(request))
        exchange.stages.lap("answer")
    return answers


class WorkerThreads:
    """The threads that answer large requests beside the event loop, since they take longer than a small one may wait.
    Few run at a time, the others wait."""

    def __init__(self, settings: Settings) -> None:
        self._threads = CapacityLimiter(settings.batches)
        self._running = 0
        self._limit = settings.batches + settings.waiting

    async def run(self, answer: Callable[[Exchange, bytes], bytes], exchange: Exchange, body: bytes) -> bytes:
        """Return the answer that a thread gives. Raises HTTPException 503 when as many wait as may."""
        if self._running >= self._limit:
            raise busy("large requests")
        self._running += 1
        try:
            return await to_thread.run_sync(answer, exchange, body, limiter=self._threads)
        finally:
            self._running -= 1


class Endpoint:
    """An endpoint that answers one message on the event loop: it takes less than a millisecond. Up to `together` that
    wait for the same engine are answered at once, which costs less than to look at the sockets between any two. A
    large message is answered in a thread."""

    def __init__(
        self,
        path: str,
        type_: type[Any],
        answers: Callable[[_Asked], list[Any]],
        together: int,
        turns: Turns,
        threads: WorkerThreads,
        settings: Settings,
    ) -> None:
        self.path = path
        self.decoder = Decoder(type_)
        self.answers = answers
        self.together = together
        self.turns = turns
        self.threads = threads
        self.settings = settings
        self.busy = failed(busy("requests"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope[KEY]
        exchange.route = self.path
        if self.turns.full():
            await self.busy(scope, receive, send)  # with no more to do than this
            return
        body = await read_body(scope, receive, self.settings)
        if len(body) > INLINE_BYTES:
            await _send(send, await self.threads.run(self._encoded_one, exchange, body))
            return
        request = self.decoder.decode(body)
        taken = self.turns.take(self._encoded, (exchange, request), exchange.engine, self.together)
        await _send(send, await taken)

    def _encoded_one(self, exchange: Exchange, body: bytes) -> bytes:
        (encoded,) = self._encode([(exchange, self.decoder.decode(body))])
        return encoded

    async def _encoded(self, asked: _Asked) -> list[bytes]:
        return self._encode(asked)

    def _encode(self, asked: _Asked) -> list[bytes]:
        for exchange, _ in asked:
            exchange.stages.lap("HTTP")
        encoded = []
        for (exchange, _), answer in zip(asked, self.answers(asked), strict=True):
            encoded.append(_success(answer))
            exchange.stages.lap("JSON")
        return encoded


class _Batch:
    """The endpoint that classifies many tracks, in a thread: it takes tens of milliseconds."""

    def __init__(self, settings: Settings, threads: WorkerThreads) -> None:
        self.settings = settings
        self.threads = threads
        self.decoder = BatchDecoder()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope[KEY]
        exchange.route = "/api/ml/classify/batch"
        body = await read_body(scope, receive, self.settings)
        await _send(send, await self.threads.run(self._encoded, exchange, body))

    def _encoded(self, exchange: Exchange, body: bytes) -> bytes:
        return _success(exchange.engine.classify_batch(self.decoder.decode(body)))


def endpoints(settings: Settings) -> list[Endpoint]:
    """Those that take turns, in one queue."""
    shared = Turns(settings.waiting), WorkerThreads(settings), settings
    return [
        Endpoint("/api/ml/recommend", RecommendRequest, _recommend, 16, *shared),
        Endpoint("/api/ml/classify", ClassifyRequest, _classify, 16, *shared),
        Endpoint("/api/ml/similar", SimilarRequest, _similar, 8, *shared),
    ]


def routes(endpoints: list[Endpoint], settings: Settings) -> list[Route]:
    """Where they are found, and batches beside them."""
    one = [Route(each.path, each, methods=["POST"]) for each in endpoints]
    return [*one, Route("/api/ml/classify/batch", _Batch(settings, endpoints[0].threads), methods=["POST"])]


def away(endpoints: list[Endpoint], begin: Begin, over: Over) -> Away:
    """What tells a server who would be sent away, before it makes anything of the request."""
    paths = {each.path.encode(): (each, _lines(each.busy.raw_headers)) for each in endpoints}

    def ask(path: bytes) -> bytes | None:
        endpoint, lines = paths.get(path, (None, b""))
        if endpoint is None or endpoint.turns.enter():
            return None
        exchange = begin("POST", endpoint.path)
        exchange.route = endpoint.path
        over(exchange, endpoint.busy.status_code)
        return b"%b%b\r\n%b" % (lines, _lines(exchange.headers()), bytes(endpoint.busy.body))

    return ask


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % each for each in headers])


def _success(data: Any) -> bytes:
    return b'{"success":true,"data":' + msgspec.json.encode(data) + b"}"


async def _send(send: Send, body: bytes) -> None:
    headers = [JSON, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
