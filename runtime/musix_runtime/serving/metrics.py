"""Metrics: what a server counts of its answers, for Prometheus."""

from collections.abc import Callable, Iterator
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from musix_runtime.engine import Engine
from musix_runtime.serving.connection_limits import REASONS
from musix_runtime.serving.middleware import Exchange

BUCKETS = (0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)  # seconds


class Metrics:
    """Counters of one application, in a registry of its own: a host's are not touched.

    With several workers (`shared`: a folder that they all write to, as prometheus-client has it), whichever is asked
    answers for all.
    """

    def __init__(self, engine: Callable[[], Engine], shared: bool) -> None:
        registry = CollectorRegistry()

        def counter(name: str, told: str, labels: list[str]) -> Callable[..., Callable[..., None]]:
            every = Counter(name, told, labels, registry=registry)
            return cache(lambda *values: every.labels(*values).inc)  # which looks for its child each time

        seconds = Histogram(
            "musix_request_seconds",
            "Time to answer, of those not sent away.",
            ["route"],
            registry=registry,
            buckets=BUCKETS,
        )
        self._seconds = cache(lambda route: seconds.labels(route).observe)
        self._requests = counter("musix_requests", "Requests answered.", ["route", "status"])
        self._stages = counter("musix_stage_seconds", "Time by stage of the answer.", ["stage"])
        self._sources = counter("musix_recommendations", "Recommendations by source.", ["source"])
        self._sheds = counter("musix_shed", "Requests sent away as too many.", ["route"])
        self._refusals = counter("musix_connections_refused", "Connections refused, by reason.", ["reason"])
        for reason in REASONS:
            self._refusals(reason)
        self._registry = registry
        if shared:
            self._registry = CollectorRegistry()
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        self._registry.register(_Bundle(engine))

    def count(self, exchange: Exchange, status: int) -> None:
        """Count one request that is over."""
        self._requests(exchange.route, str(status))()
        if status == 503:
            self._sheds(exchange.route)()
            return  # which takes no time, and would hide how long the others take
        self._seconds(exchange.route)(exchange.seconds)
        for stage, taken in exchange.stages.seconds.items():
            self._stages(stage)(taken)
        if exchange.source:
            self._sources(exchange.source)()

    def count_refusal(self, reason: str) -> None:
        """Count one connection that was refused."""
        self._refusals(reason)()

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)


class _Bundle(Collector):
    """Which bundle the asked worker answers from, now."""

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self.engine = engine

    def collect(self) -> Iterator[Metric]:
        bundle = self.engine().bundle
        labels = {"name": bundle.manifest.name, "version": bundle.manifest.version, "digest": bundle.digest}
        family = GaugeMetricFamily("musix_bundle", "The bundle that answers.", labels=list(labels))
        family.add_metric(list(labels.values()), 1)
        yield family
