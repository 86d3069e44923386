"""Exchange: one request and its answer, from the first byte to the last."""

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from time import perf_counter

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from musix_runtime.engine import Engine
from musix_runtime.errors import NotReadyError
from musix_runtime.timing import Stages

logger = logging.getLogger(__name__)
KEY = "musix.exchange"  # in the ASGI scope
OTHER = "other"  # the route of requests that met none: their paths may be anything


class Exchange:
    """What is known of a request while it is answered."""

    __slots__ = ("_engine", "bundle", "method", "path", "route", "source", "stages", "start", "unready")

    def __init__(self, engine: Engine, method: str, path: str, unready: str | None = None) -> None:
        self.start = perf_counter()
        self._engine = engine
        self.bundle = engine.bundle
        self.unready = unready
        self.method = method
        self.path = path
        self.route = OTHER
        self.source = ""
        self.stages = Stages()

    @property
    def engine(self) -> Engine:
        """What answers this request. Raises NotReadyError when nothing may, as its files have changed."""
        if self.unready:
            raise NotReadyError(self.unready)
        return self._engine

    @property
    def seconds(self) -> float:
        """Since it began."""
        return perf_counter() - self.start

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What every answer says of itself: which bundle gave it, and in Server-Timing how long it took, in ms."""
        timing = f"total;dur={1000 * self.seconds:.3f}"
        stages = "".join([f", {name};dur={1000 * taken:.3f}" for name, taken in self.stages.seconds.items()])
        return [(b"x-bundle", self.bundle.label.encode()), (b"server-timing", (timing + stages).encode())]


Begin = Callable[[str, str], Exchange]  # from method and path
Over = Callable[[Exchange, int], None]  # with the status of the answer


class Exchanges:
    """ASGI middleware around all others: begins an exchange with every request, heads the answer by what it says of
    itself, tells when it is over, and turns a failure into the plain answer that `failed` is."""

    def __init__(self, app: ASGIApp, begin: Begin, over: Over, failed: ASGIApp) -> None:
        self.app = app
        self.begin = begin
        self.over = over
        self.failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0
        exchange = scope[KEY] = self.begin(scope["method"], scope["path"])

        async def sender(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *exchange.headers()]
            await send(message)

        try:
            await self.app(scope, receive, sender)
        except ClientDisconnect:
            return  # nobody is left to answer
        except Exception:
            if status:
                raise
            logger.exception("%s %s failed", scope["method"], scope["path"])
            await self.failed(scope, receive, sender)
        finally:
            del scope[KEY]  # an idle connection keeps its last scope, and would keep a replaced engine open
            if status:
                self.over(exchange, status)


def log(exchange: Exchange, status: int) -> None:
    """Write one line of JSON on standard output for a request that is over."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "method": exchange.method,
        "path": exchange.path,
        "status": status,
        "ms": round(1000 * exchange.seconds, 3),
        "bundle": exchange.bundle.name,
        "source": exchange.source or None,
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
