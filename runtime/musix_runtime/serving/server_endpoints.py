"""Endpoints about the server itself: probes, metrics, documentation, and the administrator's actions."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from msgspec import UNSET
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from musix_runtime.engine import Engine
from musix_runtime.errors import BundleError, OutputError, StoreError
from musix_runtime.models.parts import MODELS
from musix_runtime.schemas import BundleIdentity, HealthResponse, LoadFailure, ReadyResponse
from musix_runtime.serving.authorization import AdminAuthorization
from musix_runtime.serving.docs import DocumentCache
from musix_runtime.serving.feedback import Feedback
from musix_runtime.serving.metrics import Metrics
from musix_runtime.serving.model_manager import ModelManager
from musix_runtime.serving.request_context import SCOPE_KEY, RequestContext
from musix_runtime.serving.responses import as_json, error_response, probe_response
from musix_runtime.settings import Settings

if TYPE_CHECKING:
    from musix_runtime.serving.routes import Route


@dataclass(frozen=True)
class ServerState:
    """The state that these endpoints report or change."""

    manager: ModelManager
    metrics: Metrics
    documents: DocumentCache
    authorization: AdminAuthorization
    settings: Settings
    feedback: Feedback | None = None


class ServerEndpoint(ABC):
    """An ASGI endpoint of the server itself."""

    def __init__(self, route: "Route", state: ServerState) -> None:
        self.path = route.path
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: RequestContext = scope[SCOPE_KEY]
        context.route = self.path
        response = await self.respond(context, Request(scope, receive))
        await response(scope, receive, send)

    @abstractmethod
    async def respond(self, context: RequestContext, request: Request) -> Response:
        """Return the response."""


class Health(ServerEndpoint):
    """Answers whether the process is alive."""

    async def respond(self, context: RequestContext, request: Request) -> Response:
        """Return status 200."""
        return probe_response(HealthResponse("healthy", len(MODELS)))


class Ready(ServerEndpoint):
    """Answers which bundle is served, and whether a newer one was refused."""

    async def respond(self, context: RequestContext, request: Request) -> Response:
        """Return status 200. Raises NotReadyError when the files of the bundle have changed."""
        identity, error = bundle_identity(context.engine), self.state.manager.last_error
        # The message of the error is in the log only: it names paths, and anyone may call this route.
        failed = LoadFailure(error.version, error.kind) if error else UNSET
        return probe_response(ReadyResponse("ready", identity.name, identity.version, identity.digest, failed))


class ShowMetrics(ServerEndpoint):
    """Answers with the metrics of all workers in Prometheus' text format."""

    async def respond(self, context: RequestContext, request: Request) -> Response:
        """Return the metrics."""
        return Response(self.state.metrics.text(), media_type="text/plain; version=0.0.4")


class ShowDocument(ServerEndpoint):
    """Answers with the OpenAPI document."""

    async def respond(self, context: RequestContext, request: Request) -> Response:
        """Return the document, with examples of the bundle that is served."""
        document = self.state.documents.of(context).document
        return as_json({**document, "servers": [{"url": request.scope.get("root_path") or "/"}]})


class ShowDocs(ServerEndpoint):
    """Answers with the OpenAPI document as a page."""

    async def respond(self, context: RequestContext, request: Request) -> Response:
        """Return the page, with examples of the bundle that is served."""
        return HTMLResponse(self.state.documents.of(context).page)


class ShowIndex(ServerEndpoint):
    """Answers with a page of links to every route that a browser can open, without a parameter or a token."""

    async def respond(self, context: RequestContext, request: Request) -> Response:
        """Return the page. Its links are relative, so that they work where the application is mounted."""
        paths = self.state.documents.of(context).document["paths"]
        links = "\n".join(
            f'<li><a href="{escape(path[1:])}">{escape(path)}</a> {escape(methods["get"]["summary"])}</li>'
            for path, methods in paths.items()
            if "get" in methods and "security" not in methods["get"] and "{" not in path and path != self.path
        )
        return HTMLResponse(INDEX_PAGE.format(bundle=escape(context.bundle.name), links=links))


class AdminEndpoint(ServerEndpoint):
    """An ASGI endpoint that changes what is served, for requests with the administrator's token."""

    async def respond(self, context: RequestContext, request: Request) -> Response:
        """Return the bundle that is served after the action, or status 409 and the reason why it failed."""
        await self.state.authorization.check(request)
        try:
            await run_in_threadpool(self.act)
        except (StoreError, OutputError, BundleError) as error:
            return error_response(409, str(error))
        if refusal := self.state.manager.last_error:
            return error_response(409, refusal.message)
        return as_json({"success": True, "data": bundle_identity(self.state.manager.engine)})

    @abstractmethod
    def act(self) -> None:
        """Carry out the action. Called in a worker thread."""


class Reload(AdminEndpoint):
    """Reads the registry's live pointer now."""

    def act(self) -> None:
        """Open the live bundle, even if it was refused before."""
        self.state.manager.refresh(force=True)


class Rollback(AdminEndpoint):
    """Makes the previous version live again."""

    def act(self) -> None:
        """Move the registry's live pointer back by one version, and open that bundle."""
        self.state.manager.rollback()


def bundle_identity(engine: Engine) -> BundleIdentity:
    """Return what identifies the bundle of an engine."""
    manifest = engine.bundle.manifest
    return BundleIdentity(manifest.name, manifest.version, engine.bundle.digest)


INDEX_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>musix-edge</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem }}</style>
<h1>musix-edge</h1>
<p>This server answers from the bundle <code>{bundle}</code>.</p>
<ul>
{links}
</ul>
</html>
"""
