"""The latest report of monitoring as metrics, and the job that reads it while the server is idle."""

import logging
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from musix_runtime.background import background
from musix_runtime.clock import now_ms
from musix_runtime.errors import FeedbackError
from musix_runtime.feedback.reports import ALARM_KINDS, DRIFT_INPUTS, FIGURES, VARIANTS, Figure, LiveFigures, Report
from musix_runtime.serving.idle_worker import IdleWorker
from musix_runtime.serving.model_manager import ModelManager

if TYPE_CHECKING:
    from musix_runtime.feedback.store import FeedbackStore

logger = logging.getLogger(__name__)
READ_INTERVAL_S = 60.0
NO_FIGURES = LiveFigures(0, 0, math.nan, **dict.fromkeys(FIGURES))
Values = Mapping[str, float | None]


class ReportMetrics(Collector):
    """Metrics of a report. All exist from the start, and are NaN where there is no report or figure."""

    def __init__(self) -> None:
        self.report: Report | None = None

    def collect(self) -> Iterator[Metric]:
        report = self.report
        age = report.age_s(now_ms()) if report else None
        yield _gauge("musix_report_age_seconds", "Time since the latest report of monitoring.", age)
        error = report.calibration.error if report else None
        yield _gauge("musix_calibration_error", "Expected calibration error of the scores.", error)
        yield _gauges("musix_drift", "KL divergence of what is played, in nats.", "input", _drift(report))
        yield _gauges("musix_alarms", "Alarms of the latest report.", "kind", _alarms(report))
        figures = {variant: (report.variants if report else {}).get(variant, NO_FIGURES) for variant in VARIANTS}
        yield from _live(figures)


def _live(figures: Mapping[str, LiveFigures]) -> Iterator[Metric]:
    listeners = {variant: float(each.listeners) for variant, each in figures.items()}
    yield _gauges("musix_live_listeners", "Listeners in the live window, by variant.", "variant", listeners)
    coverage = {variant: each.coverage for variant, each in figures.items()}
    yield _gauges("musix_live_coverage", "Share of the catalogue that was shown, by variant.", "variant", coverage)
    for key in FIGURES:
        values = {variant: _value(getattr(each, key)) for variant, each in figures.items()}
        yield _gauges(f"musix_live_{key}", f"Live figure {key}, by variant.", "variant", values)


def _drift(report: Report | None) -> Values:
    return {name: report.drift[name].kl if report and name in report.drift else None for name in DRIFT_INPUTS}


def _alarms(report: Report | None) -> Values:
    kinds = [alarm.kind for alarm in report.alarms] if report else []
    return {kind: kinds.count(kind) for kind in ALARM_KINDS}


def _value(figure: Figure | None) -> float | None:
    return figure.value if figure else None


def _gauge(name: str, help_text: str, value: float | None) -> Metric:
    return GaugeMetricFamily(name, help_text, value=math.nan if value is None else value)


def _gauges(name: str, help_text: str, label: str, values: Values) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], math.nan if value is None else value)
    return family


class ReportReader:
    """Reads the latest report of the served name into metrics while the server is idle, at most once a minute.

    While the database fails, the report stays, and grows old; the error is logged when it changes.
    """

    def __init__(
        self, store: "FeedbackStore", manager: ModelManager, worker: IdleWorker, metrics: ReportMetrics
    ) -> None:
        self._store = store
        self._manager = manager
        self._worker = worker
        self._metrics = metrics
        self._error: str | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Read now and then until the context ends."""
        with background("musix-reports", self._run):
            yield

    def _run(self, stop: threading.Event) -> None:
        self._worker.add(self.read)
        while not stop.wait(READ_INTERVAL_S):
            self._worker.add(self.read)

    def read(self) -> None:
        """Read the latest report, unless it is about another version, as after a rollback."""
        try:
            manifest = self._manager.latest.bundle.manifest
            report = self._store.latest_report(manifest.name)
            self._metrics.report = report if report and report.version == manifest.version else None
        except FeedbackError as error:
            if str(error) != self._error:
                logger.error("the latest report stays as it was: %s", error)
            self._error = str(error)
        else:
            self._error = None
