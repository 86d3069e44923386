"""Metrics of the server in Prometheus' text format."""

from collections.abc import Callable, Iterator
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from musix_runtime.serving.model_manager import ModelManager
from musix_runtime.serving.refusals import REASONS
from musix_runtime.serving.request_context import RequestContext
from musix_runtime.serving.shadowing import Comparison

SEARCHED_PARTS = ("collab", "content")
BUCKETS = (0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)  # seconds


class Metrics:
    """Metrics of one application, in a Prometheus registry of its own, so that those of a host are not changed.

    With `shared`, several workers write to one folder (`PROMETHEUS_MULTIPROC_DIR`) and each shows the sum of all.
    """

    def __init__(self, manager: ModelManager, shared: bool) -> None:
        registry = CollectorRegistry()
        seconds = Histogram(
            "musix_request_seconds",
            "Time to answer a request that was not rejected.",
            ["route"],
            registry=registry,
            buckets=BUCKETS,
        )
        self._seconds = cache(lambda route: seconds.labels(route).observe)
        self._requests = _counter(registry, "musix_requests", "Requests answered.", ["route", "status"])
        self._stages = _counter(registry, "musix_stage_seconds", "Time by stage of the request.", ["stage"])
        self._sources = _counter(registry, "musix_recommendations", "Recommendations by source.", ["source"])
        self._rejections = _counter(registry, "musix_shed", "Requests rejected with status 503.", ["route"])
        self._refusals = _counter(registry, "musix_connections_refused", "Connections refused, by reason.", ["reason"])
        for reason in REASONS:
            self._refusals(reason)
        self._exposures = _counter(registry, "musix_exposures", "Lists shown, by result of recording.", ["result"])
        recall = Summary("musix_search_recall", "Recall of repeated searches, by index.", ["part"], registry=registry)
        self._recall = {part: recall.labels(part).observe for part in SEARCHED_PARTS}
        self._overlap = Summary("musix_shadow_overlap", "First ten tracks that a shadow has too.", registry=registry)
        self._drift = Summary("musix_shadow_score_drift", "Mean difference of a shadow's scores.", registry=registry)
        answers = Summary("musix_shadow_seconds", "Time of answers that are compared.", ["answer"], registry=registry)
        self._shown_seconds, self._shadow_seconds = answers.labels("shown"), answers.labels("shadow")
        self._shadow_errors = Counter("musix_shadow_errors", "Answers of a shadow that failed.", registry=registry)
        self._registry = registry
        if shared:
            self._registry = CollectorRegistry()
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        self._registry.register(_BundleInfo(manager))

    def count(self, context: RequestContext, status: int) -> None:
        """Count a request whose response was sent."""
        self._requests(context.route, str(status))()
        if status == 503 and not context.database_failed:
            self._rejections(context.route)()
            return  # a rejection takes no time, and would hide the latency of the other requests
        self._seconds(context.route)(context.seconds)
        for stage, seconds in context.timer.seconds.items():
            self._stages(stage)(seconds)
        if context.source:
            self._sources(context.source)()

    def count_refusal(self, reason: str) -> None:
        """Count a connection that was refused."""
        self._refusals(reason)()

    def count_exposures(self, result: str, number: int) -> None:
        """Count lists that were shown, and recorded or not."""
        self._exposures(result)(number)

    def observe_recall(self, part: str, recall: float) -> None:
        """Count the search of a part's index that was repeated, with its recall."""
        self._recall[part](recall)

    def observe_shadow(self, comparison: Comparison | None) -> None:
        """Count the answer of a shadow, beside the one that was shown; None is one that failed."""
        if comparison is None:
            self._shadow_errors.inc()
            return
        self._overlap.observe(comparison.overlap)
        if comparison.score_drift is not None:
            self._drift.observe(comparison.score_drift)
        self._shown_seconds.observe(comparison.shown_s)
        self._shadow_seconds.observe(comparison.candidate_s)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


def _counter(
    registry: CollectorRegistry, name: str, help_text: str, labels: list[str]
) -> Callable[..., Callable[..., None]]:
    """Return a function from label values to the `inc` of their counter: `labels` itself takes a lock each time."""
    counter = Counter(name, help_text, labels, registry=registry)
    return cache(lambda *values: counter.labels(*values).inc)


class _BundleInfo(Collector):
    """The bundle that the answering worker serves now."""

    def __init__(self, manager: ModelManager) -> None:
        self.manager = manager

    def collect(self) -> Iterator[Metric]:
        bundle = self.manager.latest.bundle
        labels = {"name": bundle.manifest.name, "version": bundle.manifest.version, "digest": bundle.digest}
        family = GaugeMetricFamily("musix_bundle", "The bundle that is served.", labels=list(labels))
        family.add_metric(list(labels.values()), 1)
        yield family
