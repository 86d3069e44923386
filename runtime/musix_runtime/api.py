"""The API: endpoints that answer requests from the engine, and say who is sent away."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
from anyio import CapacityLimiter, to_thread
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from musix_runtime.engine import Engine
from musix_runtime.errors import RequestError, Violation
from musix_runtime.exchange import KEY, Begin, Exchange, Over
from musix_runtime.messages import BATCH_LIMIT, ClassifyRequest, RecommendRequest, SimilarRequest, parse
from musix_runtime.responses import failed
from musix_runtime.settings import Settings
from musix_runtime.stages import lap
from musix_runtime.turns import Turns, busy

JSON = (b"content-type", b"application/json")
Away = Callable[[bytes], bytes | None]  # from the path to the answer, from its headers on, to who is sent away
_Asked = list[tuple[Exchange, Any]]  # requests of one type, with their exchanges


async def _recommend(asked: _Asked) -> list[Any]:
    stages = [exchange.stages for exchange, _ in asked]
    lap(stages, "HTTP")
    answers = asked[0][0].engine.recommend_batch([request for _, request in asked], stages)
    for (exchange, _), answer in zip(asked, answers, strict=True):
        exchange.source = answer.source
    return answers


async def _classify(asked: _Asked) -> list[Any]:
    (exchange, request), *others = asked
    if others:
        answers = exchange.engine.classify_batch([request for _, request in asked])
    else:
        answers = [exchange.engine.classify(request)]
    for exchange, _ in asked:
        exchange.stages.lap("answer")
    return answers


async def _similar(asked: _Asked) -> list[Any]:
    answers = []
    for exchange, request in asked:
        exchange.stages.lap("HTTP")
        answers.append(exchange.engine.similar(request))
        exchange.stages.lap("answer")
    return answers


class Endpoint:
    """An endpoint that answers one message on the event loop: it takes less than a millisecond. Up to `together` that
    wait for the same engine are answered at once, which costs less than to look at the sockets between any two."""

    def __init__(
        self,
        path: str,
        type_: type[Any],
        answers: Callable[[_Asked], Awaitable[list[Any]]],
        together: int,
        turns: Turns,
        settings: Settings,
    ) -> None:
        self.path = path
        self.type = type_
        self.decoder = msgspec.json.Decoder(type_)
        self.answers = answers
        self.together = together
        self.turns = turns
        self.settings = settings
        self.busy = failed(busy("requests"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope[KEY]
        exchange.route = self.path
        if self.turns.full():
            await self.busy(scope, receive, send)  # with no more to do than this
            return
        request = self._request(await _body(scope, receive, self.settings))
        taken = self.turns.take(self._encoded, (exchange, request), exchange.engine, self.together)
        await _send(send, await taken)

    def _request(self, body: bytes) -> Any:
        try:
            return self.decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return parse(_decoded(body), self.type)  # which names every wrong field

    async def _encoded(self, asked: _Asked) -> list[bytes]:
        for exchange, _ in asked:
            exchange.stages.lap("HTTP")
        encoded = []
        for (exchange, _), answer in zip(asked, await self.answers(asked), strict=True):
            encoded.append(b'{"success":true,"data":' + msgspec.json.encode(answer) + b"}")
            exchange.stages.lap("JSON")
        return encoded


class _Batch:
    """The endpoint that classifies many tracks, in a thread: it takes tens of milliseconds. Few run at a time, the
    others wait."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.threads = CapacityLimiter(settings.batches)
        self.taken = 0
        self.limit = settings.batches + settings.waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope[KEY]
        exchange.route = "/api/ml/classify/batch"
        body = await _body(scope, receive, self.settings)
        if self.taken >= self.limit:
            raise busy("batches")
        self.taken += 1
        try:
            encoded = await to_thread.run_sync(self._encoded, exchange.engine, body, limiter=self.threads)
        finally:
            self.taken -= 1
        await _send(send, encoded)

    def _encoded(self, engine: Engine, body: bytes) -> bytes:
        answers = engine.classify_batch(_requests(body))
        return b'{"success":true,"data":' + msgspec.json.encode(answers) + b"}"


def endpoints(settings: Settings) -> list[Endpoint]:
    """Those that take turns, in one queue."""
    turns = Turns(settings.waiting)
    return [
        Endpoint("/api/ml/recommend", RecommendRequest, _recommend, 16, turns, settings),
        Endpoint("/api/ml/classify", ClassifyRequest, _classify, 16, turns, settings),
        Endpoint("/api/ml/similar", SimilarRequest, _similar, 8, turns, settings),
    ]


def routes(endpoints: list[Endpoint], settings: Settings) -> list[Route]:
    """Where they are found, and batches beside them."""
    one = [Route(each.path, each, methods=["POST"]) for each in endpoints]
    return [*one, Route("/api/ml/classify/batch", _Batch(settings), methods=["POST"])]


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


_BATCH = msgspec.json.Decoder(list[ClassifyRequest])


def _requests(body: bytes) -> list[ClassifyRequest]:
    try:
        requests = _BATCH.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        items = _decoded(body)
        if not isinstance(items, list):
            raise _too_many("none") from None
        requests = _parse_all(items)
    if len(requests) > BATCH_LIMIT:
        raise _too_many(f"{len(requests):,}")
    return requests


def _too_many(found: str) -> RequestError:
    return RequestError([Violation("$", f"expected an array of at most {BATCH_LIMIT:,} tracks, found {found}")])


def _parse_all(items: list[Any]) -> list[ClassifyRequest]:
    requests, violations = [], []
    for i, item in enumerate(items):
        try:
            requests.append(parse(item, ClassifyRequest, f"[{i}]"))
        except RequestError as error:
            violations += error.violations
    if violations:
        raise RequestError(violations)
    return requests


async def _body(scope: Scope, receive: Receive, settings: Settings) -> bytes:
    """The whole body. HTTPException when it is not said to be JSON, is too large, or takes too long."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    if kind.partition(b";")[0].strip().lower() != b"application/json":
        found = kind.decode("latin-1") or "nothing"
        raise HTTPException(415, f"content-type: expected application/json, found {found}")
    parts, size = [], 0
    try:
        async with asyncio.timeout(settings.body_seconds):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                more = message.get("more_body", False)
                if size > settings.body_limit:
                    raise HTTPException(413, f"body: expected at most {settings.body_limit:,} bytes, found more")
    except TimeoutError as error:
        told = f"body: expected all of it within {settings.body_seconds:g} s, found {size:,} bytes"
        raise HTTPException(408, told, {"connection": "close"}) from error
    return b"".join(parts)


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HTTPException(400, f"body: expected JSON, found: {error}") from error


async def _send(send: Send, body: bytes) -> None:
    headers = [JSON, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
