"""The HTTP face of an engine: a Starlette application, alone or mounted under another one."""

import logging
import time
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
from musix_runtime.errors import InputError, RequestError, UnknownTrackError, Violation
from musix_runtime.manifest import PARTS
from musix_runtime.messages import BATCH_LIMIT, ClassifyRequest, RecommendRequest, SimilarRequest, parse
from musix_runtime.settings import Settings

logger = logging.getLogger(__name__)

CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "invalid_fields",
    500: "internal_error",
}


def create_app(engine: Engine, settings: Settings | None = None) -> Starlette:
    """An ASGI application that answers from `engine`. Mount it anywhere: it keeps no global state."""
    settings = settings or Settings()
    api = _Api(engine, settings)
    middleware = [Middleware(_Headers, label=engine.bundle.label)]
    if settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["GET", "POST"], allow_headers=["*"]
            )
        )
    app = Starlette(
        routes=[
            Route("/api/ml/classify", api.classify, methods=["POST"]),
            Route("/api/ml/classify/batch", api.classify_batch, methods=["POST"]),
            Route("/api/ml/recommend", api.recommend, methods=["POST"]),
            Route("/api/ml/similar", api.similar, methods=["POST"]),
            Route("/health", api.health),
            Route("/ready", api.ready),
        ],
        middleware=middleware,
        exception_handlers={HTTPException: _http_error, InputError: _input_error},
    )
    app.router.redirect_slashes = False
    return app


def from_environment() -> Starlette:
    """The application of a server process of our own: bundle and settings from the environment."""
    engine = Engine.open(settings_module.bundle_path(), settings_module.trusted_key())
    return create_app(engine, Settings.from_environment())


class _Api:
    """The endpoints. An answer takes about a millisecond, so it is given on the event loop; batches are not."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings

    async def classify(self, request: Request) -> Response:
        return _success(self.engine.classify(parse(await self._body(request), ClassifyRequest)))

    async def classify_batch(self, request: Request) -> Response:
        items = await self._body(request)
        if not isinstance(items, list) or len(items) > BATCH_LIMIT:
            found = f"{len(items):,}" if isinstance(items, list) else "none"
            raise RequestError([Violation("$", f"expected an array of at most {BATCH_LIMIT:,} tracks, found {found}")])
        requests = _parse_all(items)
        return _success(await run_in_threadpool(self.engine.classify_batch, requests))

    async def recommend(self, request: Request) -> Response:
        return _success(self.engine.recommend(parse(await self._body(request), RecommendRequest)))

    async def similar(self, request: Request) -> Response:
        return _success(self.engine.similar(parse(await self._body(request), SimilarRequest)))

    async def health(self, request: Request) -> Response:
        return _json({"status": "healthy", "models_loaded": len(PARTS)})

    async def ready(self, request: Request) -> Response:
        bundle = self.engine.bundle
        manifest = bundle.manifest
        return _json({"status": "ready", "name": manifest.name, "version": manifest.version, "digest": bundle.digest})

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
    """Says with every response which bundle answered, and how long it took; turns a failure into a plain 500."""

    def __init__(self, app: ASGIApp, label: str) -> None:
        self.app = app
        self.label = label.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False
        start = time.perf_counter()

        async def sender(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                took = f"total;dur={1000 * (time.perf_counter() - start):.2f}".encode()
                message["headers"] = [*message["headers"], (b"x-bundle", self.label), (b"server-timing", took)]
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
