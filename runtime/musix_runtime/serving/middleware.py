"""ASGI middleware that gives each request its context, counts and logs it, and answers unexpected errors."""

import json
import logging
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from musix_runtime.serving.metrics import Metrics
from musix_runtime.serving.model_manager import ModelManager
from musix_runtime.serving.request_context import SCOPE_KEY, RequestContext, without_user
from musix_runtime.serving.responses import INTERNAL_ERROR, error_response

logger = logging.getLogger(__name__)


class AccessLog:
    """Writes one line of JSON for each request on standard output. That it cannot be written is logged once."""

    def __init__(self) -> None:
        self._failed = False

    def write(self, context: RequestContext, status: int) -> None:
        """Write the line of a request whose response was sent."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "method": context.method,
            "path": without_user(context.path),
            "status": status,
            "ms": round(1000 * context.seconds, 3),
            "bundle": context.bundle.name,
            "source": context.source or None,
        }
        try:
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
        except OSError as error:
            if not self._failed:
                logger.warning("access log: expected standard output to take a line, found: %s", error.strerror)
            self._failed = True


@dataclass(frozen=True)
class RequestHooks:
    """Calls at the start and at the end of each request."""

    manager: ModelManager
    metrics: Metrics
    access_log: AccessLog | None

    def on_request(self, method: str, path: str) -> RequestContext:
        """Return the context of a new request. It keeps its engines when other bundles are opened."""
        manager = self.manager
        return RequestContext(manager.latest, method, path, manager.unready, manager.traffic, manager.shadow)

    def on_response(self, context: RequestContext, status: int) -> None:
        """Count a request whose response was sent, and log it."""
        self.metrics.count(context, status)
        if self.access_log:
            self.access_log.write(context, status)


class RequestContextMiddleware:
    """The outermost middleware: adds the context to the scope and its headers to the response.

    An exception becomes a response with status 500 without details.
    """

    def __init__(self, app: ASGIApp, hooks: RequestHooks) -> None:
        self.app = app
        self.hooks = hooks
        self.internal_error = error_response(500, INTERNAL_ERROR)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0
        context = scope[SCOPE_KEY] = self.hooks.on_request(scope["method"], scope["path"])

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *context.headers()]
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except ClientDisconnect:
            return  # there is no client left to answer
        except Exception:
            if status:
                raise
            logger.exception("%s %s failed", scope["method"], without_user(scope["path"]))
            await self.internal_error(scope, receive, send_with_headers)
        finally:
            del scope[SCOPE_KEY]  # an idle connection keeps its last scope, which would keep a replaced engine open
            if status:
                self.hooks.on_response(context, status)
