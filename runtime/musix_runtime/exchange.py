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
from musix_runtime.stages import Stages

logger = logging.getLogger(__name__)
KEY = "musix.exchange"  # in the ASGI scope
OTHER = "other"  # the route of requests that met none: their paths may be anything


class Exchange:
    """What is known of a request while it is answered."""

    __slots__ = ("engine", "route", "source", "stages")

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.route = OTHER
        self.source = ""
        self.stages = Stages()

    def timing(self, seconds: float) -> bytes:
        """The value of the header Server-Timing, in ms."""
        stages = "".join([f", {name};dur={1000 * taken:.3f}" for name, taken in self.stages.seconds.items()])
        return f"total;dur={1000 * seconds:.3f}{stages}".encode()


class Exchanges:
    """ASGI middleware around all others: gives every request its engine, says with the answer which bundle gave it and
    how long it took, counts it, and turns a failure into the plain answer that `failed` is."""

    def __init__(
        self,
        app: ASGIApp,
        engine: Callable[[], Engine],
        count: Callable[[Exchange, int, float], None],
        failed: ASGIApp,
        log: bool,
    ) -> None:
        self.app = app
        self.engine = engine
        self.count = count
        self.failed = failed
        self.log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = perf_counter(), 0
        exchange = scope[KEY] = Exchange(self.engine())

        async def sender(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                timing = exchange.timing(perf_counter() - start)
                label = exchange.engine.bundle.label.encode()
                message["headers"] = [*message["headers"], (b"x-bundle", label), (b"server-timing", timing)]
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
                self._over(scope, exchange, status, perf_counter() - start)

    def _over(self, scope: Scope, exchange: Exchange, status: int, seconds: float) -> None:
        self.count(exchange, status, seconds)
        if self.log:
            line = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "ms": round(1000 * seconds, 3),
                "bundle": exchange.engine.bundle.name,
                "source": exchange.source or None,
            }
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
