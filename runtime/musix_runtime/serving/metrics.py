"""Metrics of the server in Prometheus' text format."""

import os
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, Summary, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from musix_runtime.errors import OutputError
from musix_runtime.feedback.exposures import RESULTS
from musix_runtime.models.mood import MOODS
from musix_runtime.models.resolve import SOURCES
from musix_runtime.schemas import ClassifyResponse
from musix_runtime.serving.model_manager import ModelManager
from musix_runtime.serving.process_metrics import WorkerProcesses
from musix_runtime.serving.refusals import REASONS
from musix_runtime.serving.report_metrics import ReportMetrics
from musix_runtime.serving.request_context import RequestContext
from musix_runtime.serving.shadowing import Comparison
from musix_runtime.timing import RECOMMEND_STAGES

SEARCHED_PARTS = ("collab", "content")
BUCKETS = (0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)  # seconds
SHARED_KINDS = ("counter", "histogram", "summary")  # of the files that prometheus-client shares
SHARED_BYTES = 2**18  # of each: more than all series take
EXPECTED = ("200", "500", "503")  # statuses that every route may have


class Metrics:
    """Metrics of one application, in a Prometheus registry of its own, so that those of a host are not changed.

    With `shared`, several workers write to that folder (`PROMETHEUS_MULTIPROC_DIR`) and each shows the sum of all. What
    comes from the manager or the latest report is that of the worker that answers.
    """

    def __init__(self, manager: ModelManager, shared: Path | None) -> None:
        if shared:
            _reserve(shared)
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
        self._exposures = _counter(registry, "musix_exposures", "Lists shown, by result of recording.", ["result"])
        self._genres = _counter(registry, "musix_predicted_genres", "Tracks by their likeliest genre.", ["genre"])
        self._moods = _counter(registry, "musix_predicted_moods", "Tracks by their likeliest mood.", ["mood"])
        self._show_from_the_start(manager.latest.bundle.manifest.families)
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
        self.report = ReportMetrics()
        processes = WorkerProcesses(shared) if shared else ProcessCollector(registry=None)
        for collector in (_BundleMetrics(manager), self.report, processes):
            self._registry.register(collector)

    def _show_from_the_start(self, genres: Iterable[str]) -> None:
        """Make series that are 0: the first increase of one that does not exist yet could not be seen."""
        for series, labels in (
            (self._refusals, REASONS),
            (self._exposures, RESULTS),
            (self._sources, SOURCES),
            (self._stages, RECOMMEND_STAGES),
            (self._genres, genres),
            (self._moods, MOODS),
        ):
            for label in labels:
                series(label)

    def expect(self, routes: Iterable[str]) -> None:
        """Make the series of these routes."""
        for route in routes:
            self._seconds(route)
            self._rejections(route)
            for status in EXPECTED:
                self._requests(route, status)

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
        if context.classified:
            self._count_predictions(context.classified)

    def _count_predictions(self, answers: Sequence[ClassifyResponse]) -> None:
        """Count tracks by their likeliest genre and mood."""
        predictions = Counts([(answer.genres[0].name, answer.mood.primary) for answer in answers])
        for (genre, mood), number in predictions.items():
            self._genres(genre)(number)
            self._moods(mood)(number)

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


def _reserve(folder: Path) -> None:
    """Write the files that this worker shares, with zeros. prometheus-client would map files without content: when the
    disk is full, the first count would end the process (SIGBUS). Raises OutputError when there is no room."""
    for kind in SHARED_KINDS:
        path = folder / f"{kind}_{os.getpid()}.db"
        try:
            with suppress(FileExistsError), path.open("xb", buffering=0) as file:
                if file.write(bytes(SHARED_BYTES)) < SHARED_BYTES:
                    file.write(b"\0")  # raises the error of a full disk
        except OSError as error:
            path.unlink(missing_ok=True)
            raise OutputError(
                f"{folder}: expected room for the metrics that the workers share, found: {error.strerror}; "
                "make room, or name another folder in TMPDIR"
            ) from error


def _counter(
    registry: CollectorRegistry, name: str, help_text: str, labels: list[str]
) -> Callable[..., Callable[..., None]]:
    """Return a function from label values to the `inc` of their counter: `labels` itself takes a lock each time."""
    counter = Counter(name, help_text, labels, registry=registry)
    return cache(lambda *values: counter.labels(*values).inc)


class _BundleMetrics(Collector):
    """The bundle that the answering worker serves now, and what it refused."""

    def __init__(self, manager: ModelManager) -> None:
        self.manager = manager

    def collect(self) -> Iterator[Metric]:
        bundle = self.manager.latest.bundle
        labels = {"name": bundle.manifest.name, "version": bundle.manifest.version, "digest": bundle.digest}
        family = GaugeMetricFamily("musix_bundle", "The bundle that is served.", labels=list(labels))
        family.add_metric(list(labels.values()), 1)
        yield family
        ready = GaugeMetricFamily("musix_ready", "1 while requests are answered, 0 while files have changed.")
        ready.add_metric([], float(self.manager.unready is None))
        yield ready
        refused = GaugeMetricFamily("musix_bundle_refused", "Versions that should answer now, but were refused.")
        refused.add_metric([], self.manager.refused)
        yield refused
        versions = GaugeMetricFamily("musix_registry_versions", "Published versions of the name that is served.")
        versions.add_metric([], self.manager.published)
        yield versions
