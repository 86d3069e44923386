"""The analysis of an experiment as text and as JSON."""

from collections.abc import Callable
from typing import Any

from musix_trainer.loop.experiment import Analysis, Guardrail, MetricResult

GUARDRAILS: dict[str, tuple[str, Callable[[float], str]]] = {  # the name, and a value as text
    "error_rate": ("failed requests", lambda share: f"{100 * share:.2f} %"),
    "p95_ms": ("P95 of an answer", lambda ms: f"{ms:.1f} ms"),
}


def lines(analysis: Analysis) -> list[str]:
    """Return what a person needs to know of an experiment, the verdict last."""
    experiment = analysis.experiment
    counts = analysis.treatment_listeners, analysis.control_listeners
    return [
        f"{experiment.title}: {experiment.treatment} against {experiment.control}, {experiment.state}",
        f"listeners: {sum(counts):,} of {experiment.listeners:,}; {counts[0]:,} got {experiment.treatment},"
        f" {counts[1]:,} {experiment.control}",
        *(metric_line(each, experiment.listeners) for each in analysis.metrics.values()),
        *map(guardrail_line, analysis.guardrails),
        f"verdict: {analysis.verdict}; {analysis.reason}",
    ]


def metric_line(result: MetricResult, planned: int) -> str:
    """Return a metric of an experiment that is planned for so many listeners as one line."""
    metric, difference = result.metric, result.difference
    if difference is None:
        return f"{metric.name}: no data"
    treatment, control = map(metric.format, (difference.treatment, difference.control))
    value, low, high = map(metric.format_difference, (difference.value, difference.low, difference.high))
    if result.detectable is None:
        found = f"no estimate yet of the difference that {planned:,} listeners find"
    elif result.detectable > max(difference.control, metric.largest - difference.control):
        found = f"{planned:,} listeners are too few to find any difference"
    else:
        found = f"planned to find {metric.format_difference(result.detectable)}"
    return f"{metric.name}: {treatment} against {control}, difference {value} ({low} to {high}); {found}"


def guardrail_line(guardrail: Guardrail) -> str:
    """Return a guardrail with its figures."""
    name, unit = GUARDRAILS[guardrail.key]
    values = (guardrail.treatment, guardrail.control)
    if values == (None, None):
        return f"{name}: no data"
    treatment, control = ("no data" if value is None else unit(value) for value in values)
    return f"{name}: {treatment} against {control}, {'too high' if guardrail.crossed else 'ok'}"


def as_json(analysis: Analysis) -> dict[str, Any]:
    """Return the analysis as JSON values: the figures are shares, tracks and milliseconds."""
    return {
        "experiment": analysis.experiment.id,
        "startedMs": analysis.experiment.started_ms,
        "stoppedMs": analysis.experiment.stopped_ms,
        "control": analysis.experiment.control,
        "treatment": analysis.experiment.treatment,
        "listeners": {
            "planned": analysis.experiment.listeners,
            "control": analysis.control_listeners,
            "treatment": analysis.treatment_listeners,
        },
        "metrics": {key: _metric_json(result) for key, result in analysis.metrics.items()},
        "guardrails": {
            each.key: {"control": each.control, "treatment": each.treatment, "crossed": each.crossed}
            for each in analysis.guardrails
        },
        "verdict": analysis.verdict,
        "reason": analysis.reason,
    }


def _metric_json(result: MetricResult) -> dict[str, Any]:
    difference = result.difference
    return {
        "definition": result.metric.definition,
        "target": result.metric.target,
        "control": difference and difference.control,
        "treatment": difference and difference.treatment,
        "difference": difference and difference.value,
        "low": difference and difference.low,
        "high": difference and difference.high,
        "detectable": result.detectable,
    }
