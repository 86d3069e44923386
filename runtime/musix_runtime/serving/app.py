"""The HTTP interface of an engine: a Starlette application, alone or mounted under another one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from musix_runtime.engine import Engine
from musix_runtime.errors import FeedbackError, InputError, LayoutError, NotReadyError
from musix_runtime.serving.authorization import AdminAuthorization
from musix_runtime.serving.connection_limits import ConnectionLimiter
from musix_runtime.serving.docs import DocumentCache
from musix_runtime.serving.endpoints import BatchedEndpoint, ModelEndpoint, Resources
from musix_runtime.serving.feedback import Feedback
from musix_runtime.serving.metrics import Metrics
from musix_runtime.serving.middleware import AccessLog, RequestContextMiddleware, RequestHooks
from musix_runtime.serving.model_manager import ModelManager
from musix_runtime.serving.rejecter import Rejecter
from musix_runtime.serving.report_metrics import ReportReader
from musix_runtime.serving.responses import feedback_error, http_error, input_error, layout_error, not_ready
from musix_runtime.serving.routes import no_route, routes_of, starlette_routes
from musix_runtime.serving.server_endpoints import ServerState
from musix_runtime.settings import Settings


def create_app(engine: Engine | ModelManager, settings: Settings | None = None) -> Starlette:
    """Return an ASGI application that answers from `engine`. It keeps no global state, and can be mounted anywhere.

    While its lifespan runs it watches the files of the bundle, or the registry of a `ModelManager`, and writes what it
    recommends to the feedback store of the settings. Frameworks do not run the lifespan of a mounted application: the
    host's lifespan enters `app.router.lifespan_context(app)`. Raises InputError for arguments of other types, and when
    that store cannot be opened.
    """
    if not isinstance(engine, Engine | ModelManager):
        raise InputError(f"engine: expected an Engine or ModelManager, found {type(engine).__name__}")
    if not isinstance(settings, Settings | None):
        raise InputError(f"settings: expected Settings, found {type(settings).__name__}")
    settings = settings or Settings()
    manager = engine if isinstance(engine, ModelManager) else ModelManager(engine)
    metrics = Metrics(manager, settings.shared_metrics)
    hooks = RequestHooks(manager, metrics, AccessLog() if settings.access_log else None)

    feedback = Feedback.from_settings(settings, metrics.count_exposures)

    routes = routes_of(
        admin=bool(settings.admin_token), registry=manager.registry is not None, feedback=feedback is not None
    )
    metrics.expect(route.path for route in routes if issubclass(route.endpoint, ModelEndpoint))
    documents = DocumentCache(routes, manager.latest)
    state = ServerState(manager, metrics, documents, AdminAuthorization(settings.admin_token), settings, feedback)
    resources = Resources.from_settings(settings, metrics, feedback)
    mounted = starlette_routes(routes, resources, state)
    reader = ReportReader(feedback.store, manager, resources.idle_worker, metrics.report) if feedback else None

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        recording = feedback.recording() if feedback else nullcontext()
        reading = reader.running() if reader else nullcontext()
        with manager.polling(settings.poll_interval_s), recording, resources.idle_worker.running(), reading:
            yield

    app = Starlette(
        routes=mounted,
        middleware=_middleware(settings, hooks),
        lifespan=lifespan,
        exception_handlers={
            404: no_route,
            HTTPException: http_error,
            InputError: input_error,
            NotReadyError: not_ready,
            FeedbackError: feedback_error,
            LayoutError: layout_error,
        },
    )
    app.router.redirect_slashes = False
    app.state.feedback = feedback
    app.state.connection_limiter = ConnectionLimiter(settings, metrics.count_refusal)
    # A response to another origin needs the headers of CORSMiddleware, so with CORS nothing is rejected before it.
    batched = [route.endpoint for route in mounted if isinstance(route.endpoint, BatchedEndpoint)]
    app.state.rejecter = Rejecter([] if settings.cors_origins else batched, hooks)
    return app


def _middleware(settings: Settings, hooks: RequestHooks) -> list[Middleware]:
    context = Middleware(RequestContextMiddleware, hooks=hooks)
    if not settings.cors_origins:
        return [context]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=["X-Bundle", "X-Request-Id", "Server-Timing", "Retry-After"],
    )
    return [context, cors]
