"""The HTTP face of an engine: a Starlette application, alone or mounted under another one."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from musix_runtime.engine import Engine
from musix_runtime.errors import BundleError, InputError, NotReadyError, OutputError, StoreError
from musix_runtime.models.parts import MODELS
from musix_runtime.serving import docs, endpoints, openapi
from musix_runtime.serving.authorization import AdminAuthorization
from musix_runtime.serving.connection_limits import ConnectionLimiter
from musix_runtime.serving.metrics import Metrics
from musix_runtime.serving.middleware import KEY, Exchange, Exchanges, log
from musix_runtime.serving.model_manager import Live
from musix_runtime.serving.responses import as_json, failure, http_error, input_error, not_ready
from musix_runtime.settings import Settings


def create_app(engine: Engine | Live, settings: Settings | None = None) -> Starlette:
    """An ASGI application that answers from `engine`. Mount it anywhere: it keeps no global state.

    It watches the bundle's files, or the store of a `Live`, as long as the application's lifespan runs. Frameworks run
    no lifespan of what is mounted: there the host gives a `Live`, and enters `Live.following` in its own.
    """
    settings = settings or Settings()
    live = engine if isinstance(engine, Live) else Live(engine)
    metrics = Metrics(lambda: live.latest, settings.shared_metrics)

    def begin(method: str, path: str) -> Exchange:
        return Exchange(live.latest, method, path, live.unready)

    def over(exchange: Exchange, status: int) -> None:
        metrics.count(exchange, status)
        if settings.access_log:
            log(exchange, status)

    broken = failure(500, "the server failed to answer; its log says why")
    middleware = [Middleware(Exchanges, begin=begin, over=over, failed=broken)]
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

    queued = endpoints.endpoints(settings)
    app = Starlette(
        routes=[
            *endpoints.routes(queued, settings),
            *_own_routes(live, metrics, settings),
            *_admin_routes(live, settings),
        ],
        middleware=middleware,
        lifespan=lifespan,
        exception_handlers={HTTPException: http_error, InputError: input_error, NotReadyError: not_ready},
    )
    app.router.redirect_slashes = False
    # An answer to another origin needs the headers of CORS, which are added further inside.
    app.state.connection_limiter = ConnectionLimiter(settings, metrics.count_refusal)
    app.state.away = endpoints.away([] if settings.cors_origins else queued, begin, over)
    return app


def _own_routes(live: Live, metrics: Metrics, settings: Settings) -> list[Route]:
    """What a server says of itself."""
    document = openapi.document(admin=_has_admin(live, settings))
    page, encoded = docs.page(document), msgspec.json.encode(document)

    def route(path: str, answer: Callable[[Request], Response]) -> Route:
        async def endpoint(request: Request) -> Response:
            request.scope[KEY].route = path
            return answer(request)

        return Route(path, endpoint)

    def ready(request: Request) -> Response:
        # What is wrong with the file is in the log: whoever may ask this need not know paths.
        failed = {"failed": {"version": live.failed.version, "error": live.failed.kind}} if live.failed else {}
        return as_json({"status": "ready", **_identity(request.scope[KEY].engine), **failed})

    return [
        route("/health", lambda request: as_json({"status": "healthy", "models_loaded": len(MODELS)})),
        route("/ready", ready),
        route("/metrics", lambda request: Response(metrics.text(), media_type="text/plain; version=0.0.4")),
        route("/openapi.json", lambda request: Response(encoded, media_type="application/json")),
        route("/docs", lambda request: HTMLResponse(page)),
    ]


def _has_admin(live: Live, settings: Settings) -> bool:
    return live.store is not None and bool(settings.admin_token)


def _admin_routes(live: Live, settings: Settings) -> list[Route]:
    """Reload and rollback, for who has the token; none without a store, or when no token is set."""
    if not _has_admin(live, settings):
        return []

    authorization = AdminAuthorization(settings.admin_token)

    def route(path: str, act: Callable[[], None]) -> Route:
        async def endpoint(request: Request) -> Response:
            request.scope[KEY].route = path
            await authorization.check(request)
            try:
                await run_in_threadpool(act)
            except (StoreError, OutputError, BundleError) as error:
                return failure(409, str(error))
            failed = live.failed
            if failed:
                return failure(409, failed.error)
            return as_json({"success": True, "data": _identity(live.engine)})

        return Route(path, endpoint, methods=["POST"])

    return [route("/api/ml/reload", lambda: live.check(again=True)), route("/api/ml/rollback", live.rollback)]


def _identity(engine: Engine) -> dict[str, str]:
    manifest = engine.bundle.manifest
    return {"name": manifest.name, "version": manifest.version, "digest": engine.bundle.digest}
