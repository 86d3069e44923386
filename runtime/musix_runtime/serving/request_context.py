"""The context of one request, from its first byte to the last byte of its response."""

from collections.abc import Sequence
from time import perf_counter
from typing import Any

from musix_runtime.engine import Engine
from musix_runtime.errors import NotReadyError
from musix_runtime.schemas import ClassifyResponse, Variant
from musix_runtime.serving.traffic import ShadowTraffic, Traffic
from musix_runtime.timing import StageTimer

SCOPE_KEY = "musix.request_context"  # in the ASGI scope
UNMATCHED = "other"  # the route in metrics of requests without a route, whose paths may be anything
LISTENERS = "/api/ml/listeners/"  # in a path it is followed by the id of a user


def without_user(path: str) -> str:
    """Return a path as it may be logged: with `{id}` in place of the id of a user."""
    before, marker, _ = path.partition(LISTENERS)
    return f"{before}{marker}{{id}}" if marker else path


class RequestContext:
    """The state of a request while it is answered."""

    __slots__ = (
        "_engine",
        "bundle",
        "classified",
        "database_failed",
        "method",
        "path",
        "request",
        "route",
        "shadow",
        "source",
        "start",
        "timer",
        "traffic",
        "unready",
        "variant",
    )

    def __init__(
        self,
        engine: Engine,
        method: str,
        path: str,
        unready: str | None = None,
        traffic: Traffic | None = None,
        shadow: ShadowTraffic | None = None,
    ) -> None:
        self.start = perf_counter()
        self._engine = engine
        self.bundle = engine.bundle
        self.unready = unready
        self.traffic = traffic  # of the running experiment
        self.shadow = shadow
        self.database_failed = False
        self.variant: Variant | None = None  # that answers this request
        self.method = method
        self.path = path
        self.route = UNMATCHED
        self.request: Any = None  # the decoded body
        self.source = ""
        self.classified: Sequence[ClassifyResponse] = ()
        self.timer = StageTimer()

    @property
    def engine(self) -> Engine:
        """The engine that answers this request. Raises NotReadyError when the files of its bundle have changed."""
        if self.unready:
            raise NotReadyError(self.unready)
        return self._engine

    def route_to_variant(self, user_id: str) -> None:
        """Let the variant of the user answer this request, if an experiment is running."""
        if self.traffic is not None:
            self.variant = self.traffic.experiment.variant(user_id)
            self._engine = self.traffic.engines[self.variant]
            self.bundle = self._engine.bundle

    @property
    def seconds(self) -> float:
        """Time since the request began."""
        return perf_counter() - self.start

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers of every response: the bundle, and in Server-Timing the time of each stage in ms."""
        timing = f"total;dur={1000 * self.seconds:.3f}"
        stages = "".join([f", {name};dur={1000 * seconds:.3f}" for name, seconds in self.timer.seconds.items()])
        return [(b"x-bundle", self.bundle.label.encode()), (b"server-timing", (timing + stages).encode())]
