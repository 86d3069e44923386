"""The HTTP face of an engine: a Starlette application, alone or mounted under another one."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from musix_runtime import docs, openapi
from musix_runtime.engine import Engine
from musix_runtime.errors import (
    BundleError,
    InputError,
    OutputError,
    RequestError,
    StoreError,
    UnknownTrackError,
    Violation,
)
from musix_runtime.exchange import KEY, Begin, Exchange, Exchanges, Over, log
from musix_runtime.live import Live
from musix_runtime.manifest import PARTS
from musix_runtime.messages import BATCH_LIMIT, ClassifyRequest, RecommendRequest, SimilarRequest, parse
from musix_runtime.metrics import Metrics
from musix_runtime.settings import Settings
from musix_runtime.turns import Aside, Turns, busy

CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timed_out",
    409: "conflict",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "invalid_fields",
    500: "internal_error",
    503: "busy",
}
JSON = (b"content-type", b"application/json")
Away = Callable[[bytes], bytes | None]  # from the path to the answer, from its headers on, to who is sent away


def create_app(engine: Engine | Live, settings: Settings | None = None) -> Starlette:
    """An ASGI application that answers from `engine`. Mount it anywhere: it keeps no global state.

    With a `Live` it follows the store, as long as the application's lifespan runs. Frameworks run no lifespan of what
    is mounted: there the host enters `Live.following` in its own.
    """
    settings = settings or Settings()
    live = engine if isinstance(engine, Live) else Live(engine)
    metrics = Metrics(lambda: live.engine, settings.shared_metrics)

    def begin(method: str, path: str) -> Exchange:
        return Exchange(live.engine, method, path)

    def over(exchange: Exchange, status: int) -> None:
        metrics.count(exchange, status)
        if settings.access_log:
            log(exchange, status)

    failed = _failure(500, "the server failed to answer; its log says why")
    middleware = [Middleware(Exchanges, begin=begin, over=over, failed=failed)]
    if settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["GET", "POST"], allow_headers=["*"]
            )
        )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with live.following(settings.poll):
            yield

    answers = _answers(settings)
    app = Starlette(
        routes=[*_api_routes(answers, settings), *_own_routes(live, metrics, settings), *_admin_routes(live, settings)],
        middleware=middleware,
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error, InputError: _input_error},
    )
    app.router.redirect_slashes = False
    # An answer to another origin needs the headers of CORS, which are added further inside.
    app.state.away = _away([] if settings.cors_origins else answers, begin, over)
    return app


def _answers(settings: Settings) -> "list[_Answer]":
    turns = Turns(settings.waiting)
    return [
        _Answer("/api/ml/recommend", RecommendRequest, _recommend, 8, turns, settings),
        _Answer("/api/ml/classify", ClassifyRequest, _classify, 16, turns, settings),
        _Answer("/api/ml/similar", SimilarRequest, _similar, 8, turns, settings),
    ]


def _api_routes(answers: "list[_Answer]", settings: Settings) -> list[Route]:
    one = [Route(each.path, each, methods=["POST"]) for each in answers]
    return [*one, Route("/api/ml/classify/batch", _Batch(settings), methods=["POST"])]


def _away(answers: "list[_Answer]", begin: Begin, over: Over) -> Away:
    """What tells a server who would be sent away, before it makes anything of the request."""
    paths = {each.path.encode(): (each, _lines(each.busy.raw_headers)) for each in answers}

    def away(path: bytes) -> bytes | None:
        answer, lines = paths.get(path, (None, b""))
        if answer is None or answer.turns.enter():
            return None
        exchange = begin("POST", answer.path)
        exchange.route = answer.path
        over(exchange, answer.busy.status_code)
        return b"%b%b\r\n%b" % (lines, _lines(exchange.headers()), bytes(answer.busy.body))

    return away


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % each for each in headers])


_Asked = list[tuple[Exchange, Any]]  # requests of one type, with their exchanges


async def _recommend(asked: _Asked, aside: Aside) -> list[Any]:
    engine, met = asked[0][0].engine, []
    for exchange, request in asked:
        exchange.stages.lap("HTTP")
        met.append(engine.prepare(request))
        exchange.stages.lap("look-up")
    every = await aside(partial(engine.pool.search, [each.question for each in met]))
    answers = []
    for (exchange, _), prepared, found in zip(asked, met, every, strict=True):
        answers.append(engine.answer(prepared, found, exchange.stages))
        exchange.source = prepared.source
    return answers


async def _classify(asked: _Asked, aside: Aside) -> list[Any]:
    (exchange, request), *others = asked
    if others:
        answers = exchange.engine.classify_batch([request for _, request in asked])
    else:
        answers = [exchange.engine.classify(request)]
    for exchange, _ in asked:
        exchange.stages.lap("answer")
    return answers


async def _similar(asked: _Asked, aside: Aside) -> list[Any]:
    answers = []
    for exchange, request in asked:
        exchange.stages.lap("HTTP")
        answers.append(exchange.engine.similar(request))
        exchange.stages.lap("answer")
    return answers


class _Answer:
    """An endpoint that answers one message on the event loop: it takes less than a millisecond. Up to `together` that
    wait for the same engine are answered at once, which costs less than to look at the sockets between any two."""

    def __init__(
        self,
        path: str,
        type_: type[Any],
        answers: Callable[[_Asked, Aside], Awaitable[list[Any]]],
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
        self.busy = _failed(busy("requests"))

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

    async def _encoded(self, asked: _Asked, aside: Aside) -> list[bytes]:
        for exchange, _ in asked:
            exchange.stages.lap("HTTP")
        encoded = []
        for (exchange, _), answer in zip(asked, await self.answers(asked, aside), strict=True):
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


def _own_routes(live: Live, metrics: Metrics, settings: Settings) -> list[Route]:
    """What a server says of itself."""
    document = openapi.document(admin=_has_admin(live, settings))
    page = docs.page(document)

    def route(path: str, answer: Callable[[Request], Response]) -> Route:
        async def endpoint(request: Request) -> Response:
            request.scope[KEY].route = path
            return answer(request)

        return Route(path, endpoint)

    def ready(request: Request) -> Response:
        failed = {"failed": live.failed} if live.failed else {}
        return _json({"status": "ready", **_identity(request.scope[KEY].engine), **failed})

    return [
        route("/health", lambda request: _json({"status": "healthy", "models_loaded": len(PARTS)})),
        route("/ready", ready),
        route("/metrics", lambda request: Response(metrics.text(), media_type="text/plain; version=0.0.4")),
        route("/openapi.json", lambda request: _json(document)),
        route("/docs", lambda request: HTMLResponse(page)),
    ]


def _has_admin(live: Live, settings: Settings) -> bool:
    return live.store is not None and bool(settings.admin_token)


def _admin_routes(live: Live, settings: Settings) -> list[Route]:
    """Reload and rollback, for who has the token; none without a store, or when no token is set."""
    if not _has_admin(live, settings):
        return []

    def route(path: str, act: Callable[[], None]) -> Route:
        async def endpoint(request: Request) -> Response:
            request.scope[KEY].route = path
            _check_admin(request, settings.admin_token)
            try:
                await run_in_threadpool(act)
            except (StoreError, OutputError, BundleError) as error:
                return _failure(409, str(error))
            failed = live.failed
            if failed:
                return _failure(409, failed.error)
            return _json({"success": True, "data": _identity(live.engine)})

        return Route(path, endpoint, methods=["POST"])

    return [route("/api/ml/reload", lambda: live.check(again=True)), route("/api/ml/rollback", live.rollback)]


def _check_admin(request: Request, token: str) -> None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        message = "authorization: expected a bearer token, found none"
        raise HTTPException(401, message, {"www-authenticate": "Bearer"})
    if not hmac.compare_digest(given.strip().encode("latin-1"), token.encode()):
        raise HTTPException(403, "authorization: expected the token of the admin, found another")


def _identity(engine: Engine) -> dict[str, str]:
    manifest = engine.bundle.manifest
    return {"name": manifest.name, "version": manifest.version, "digest": engine.bundle.digest}


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _failure(status: int, message: str, details: list[Violation] | None = None, code: str | None = None) -> Response:
    error = {"code": code or CODES.get(status, "error"), "message": message, "details": details or []}
    return _json({"success": False, "error": error}, status)


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 404:
        error.detail = f"{request.url.path}: expected a route of this server, found none"
    elif error.status_code == 405:
        error.detail = f"{request.url.path}: expected another method, found {request.method}"
    return _failed(error)


def _failed(error: HTTPException) -> Response:
    response = _failure(error.status_code, error.detail)
    response.headers.update(error.headers or {})
    return response


async def _input_error(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestError):
        return _failure(422, "the request has wrong fields", error.violations)
    if isinstance(error, UnknownTrackError):
        return _failure(404, str(error), [Violation(error.path, "unknown track")], "unknown_track")
    raise error
