"""The HTTP face of an engine: a Starlette application, alone or mounted under another one."""

import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from musix_runtime import settings as settings_module
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
from musix_runtime.live import Live
from musix_runtime.manifest import PARTS
from musix_runtime.messages import BATCH_LIMIT, ClassifyRequest, RecommendRequest, SimilarRequest, parse
from musix_runtime.settings import Settings

logger = logging.getLogger(__name__)

CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "invalid_fields",
    500: "internal_error",
}


ENGINE = "musix.engine"  # key of the request's engine in its ASGI scope


def create_app(engine: Engine | Live, settings: Settings | None = None) -> Starlette:
    """An ASGI application that answers from `engine`. Mount it anywhere: it keeps no global state.

    With a `Live` it follows the store, as long as the application's lifespan runs. Frameworks run no lifespan of what
    is mounted: there the host enters `Live.following` in its own.
    """
    settings = settings or Settings()
    live = engine if isinstance(engine, Live) else Live(engine)
    api = _Api(live, settings)
    middleware = [Middleware(_Headers, live=live)]
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

    app = Starlette(
        routes=[
            Route("/api/ml/classify", api.classify, methods=["POST"]),
            Route("/api/ml/classify/batch", api.classify_batch, methods=["POST"]),
            Route("/api/ml/recommend", api.recommend, methods=["POST"]),
            Route("/api/ml/similar", api.similar, methods=["POST"]),
            Route("/health", api.health),
            Route("/ready", api.ready),
            *_admin_routes(live, settings),
        ],
        middleware=middleware,
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error, InputError: _input_error},
    )
    app.router.redirect_slashes = False
    return app


def from_environment() -> Starlette:
    """The application of a server process of our own: bundle or store, and settings, from the environment."""
    opener = partial(Engine.open, trust=settings_module.trusted_key())
    return create_app(Live.open(settings_module.bundle_path(), opener), Settings.from_environment())


class _Api:
    """The endpoints. An answer takes about a millisecond, so it is given on the event loop; batches are not."""

    def __init__(self, live: Live, settings: Settings) -> None:
        self.live = live
        self.settings = settings

    async def classify(self, request: Request) -> Response:
        return _success(_engine(request).classify(parse(await self._body(request), ClassifyRequest)))

    async def classify_batch(self, request: Request) -> Response:
        items = await self._body(request)
        if not isinstance(items, list) or len(items) > BATCH_LIMIT:
            found = f"{len(items):,}" if isinstance(items, list) else "none"
            raise RequestError([Violation("$", f"expected an array of at most {BATCH_LIMIT:,} tracks, found {found}")])
        requests = _parse_all(items)
        return _success(await run_in_threadpool(_engine(request).classify_batch, requests))

    async def recommend(self, request: Request) -> Response:
        return _success(_engine(request).recommend(parse(await self._body(request), RecommendRequest)))

    async def similar(self, request: Request) -> Response:
        return _success(_engine(request).similar(parse(await self._body(request), SimilarRequest)))

    async def health(self, request: Request) -> Response:
        return _json({"status": "healthy", "models_loaded": len(PARTS)})

    async def ready(self, request: Request) -> Response:
        failed = self.live.failed
        return _json({"status": "ready", **_identity(_engine(request)), **({"failed": failed} if failed else {})})

    async def _body(self, request: Request) -> Any:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HTTPException(415, f"content-type: expected application/json, found {kind or 'nothing'}")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self.settings.body_limit:
                raise HTTPException(413, f"body: expected at most {self.settings.body_limit:,} bytes, found more")
        try:
            return msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise HTTPException(400, f"body: expected JSON, found: {error}") from error


def _admin_routes(live: Live, settings: Settings) -> list[Route]:
    """Reload and rollback, for who has the token; none without a store, or when no token is set."""
    if live.store is None or not settings.admin_token:
        return []

    def route(path: str, act: Callable[[], None]) -> Route:
        async def endpoint(request: Request) -> Response:
            _check_admin(request, settings.admin_token)
            try:
                await run_in_threadpool(act)
            except (StoreError, OutputError, BundleError) as error:
                return _failure(409, str(error))
            failed = live.failed
            return _failure(409, failed.error) if failed else _success(_identity(live.engine))

        return Route(path, endpoint, methods=["POST"])

    return [route("/api/ml/reload", lambda: live.check(again=True)), route("/api/ml/rollback", live.rollback)]


def _check_admin(request: Request, token: str) -> None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        message = "authorization: expected a bearer token, found none"
        raise HTTPException(401, message, {"www-authenticate": "Bearer"})
    if not hmac.compare_digest(given.strip().encode("latin-1"), token.encode()):
        raise HTTPException(403, "authorization: expected the token of the admin, found another")


def _engine(request: Request) -> Engine:
    engine: Engine = request.scope[ENGINE]
    return engine


def _identity(engine: Engine) -> dict[str, str]:
    manifest = engine.bundle.manifest
    return {"name": manifest.name, "version": manifest.version, "digest": engine.bundle.digest}


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


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _success(data: Any) -> Response:
    return _json({"success": True, "data": data})


def _failure(status: int, message: str, details: list[Violation] | None = None, code: str | None = None) -> Response:
    error = {"code": code or CODES.get(status, "error"), "message": message, "details": details or []}
    return _json({"success": False, "error": error}, status)


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    message = error.detail
    if error.status_code == 404:
        message = f"{request.url.path}: expected a route of this server, found none"
    elif error.status_code == 405:
        message = f"{request.url.path}: expected another method, found {request.method}"
    response = _failure(error.status_code, message)
    response.headers.update(error.headers or {})
    return response


async def _input_error(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestError):
        return _failure(422, "the request has wrong fields", error.violations)
    if isinstance(error, UnknownTrackError):
        return _failure(404, str(error), [Violation(error.path, "unknown track")], "unknown_track")
    raise error


class _Headers:
    """Gives every request its engine; says with the response which bundle answered, and how long it took.

    Turns a failure into a plain 500.
    """

    def __init__(self, app: ASGIApp, live: Live) -> None:
        self.app = app
        self.live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope[ENGINE] = self.live.engine
        label = scope[ENGINE].bundle.label.encode()
        started = False
        start = time.perf_counter()

        async def sender(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                took = f"total;dur={1000 * (time.perf_counter() - start):.2f}".encode()
                message["headers"] = [*message["headers"], (b"x-bundle", label), (b"server-timing", took)]
            await send(message)

        try:
            await self.app(scope, receive, sender)
        except ClientDisconnect:
            return  # nobody is left to answer
        except Exception:
            if started:
                raise
            logger.exception("%s %s failed", scope["method"], scope["path"])
            await _failure(500, "the server failed to answer; its log says why")(scope, receive, sender)
        finally:
            del scope[ENGINE]  # an idle connection keeps its last scope, and would keep a replaced engine open
