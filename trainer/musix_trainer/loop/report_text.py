"""A report of monitoring as text."""

from collections.abc import Iterator

from musix_runtime.clock import format_time
from musix_runtime.feedback.reports import (
    EMERGENCY,
    FIGURES,
    NO_VARIANT,
    CalibrationDrift,
    Figure,
    InputDrift,
    LiveFigures,
    Report,
    Window,
)
from musix_runtime.formatting import format_count
from musix_trainer.loop.drift import MIN_LISTENERS
from musix_trainer.loop.listening import METRICS

NOTHING = "-"


def lines(report: Report) -> Iterator[str]:
    """Yield what a person needs to know of a report, the alarms last."""
    yield f"{report.name} {report.version}"
    yield _window("reference", report.reference)
    yield _window("live", report.live)
    yield ""
    yield f"{'input':<18}{'KL':>8}{'at least':>10}{'distance':>10}"
    for name, drift in report.drift.items():
        yield _drift(name, drift)
    yield _calibration(report.calibration)
    yield ""
    for version, figures in report.bundles.items():
        yield from _figures(f"version {version}", figures)
    for variant, figures in report.variants.items() if set(report.variants) != {NO_VARIANT} else ():
        yield from _figures(f"variant {variant}", figures)
    yield ""
    for alarm in report.alarms:
        yield f"{'emergency' if alarm.kind == EMERGENCY else 'alarm'}: {alarm.sentence}"
    if not report.alarms:
        yield "no alarm"


def _window(title: str, window: Window) -> str:
    enough = "" if window.listeners >= MIN_LISTENERS else f", not enough: expected {MIN_LISTENERS}"
    span = f"{format_time(window.from_ms)} to {format_time(window.until_ms)}"
    return f"{title}: {span}, {_of_listeners(window.plays, 'play', window.listeners)}{enough}"


def _drift(name: str, drift: InputDrift) -> str:
    return f"{name:<18}{_number(drift.kl):>8}{_number(drift.low):>10}{_number(drift.wasserstein):>10}"


def _calibration(found: CalibrationDrift) -> str:
    tracks = format_count(found.tracks, "track")
    return f"calibration error: {_number(found.error)}, at least {_number(found.low)}, of {tracks}"


def _figures(title: str, figures: LiveFigures) -> Iterator[str]:
    yield (
        f"{title}: {_of_listeners(figures.lists, 'list', figures.listeners)}, "
        f"{100 * figures.coverage:.1f} % of the catalogue"
    )
    for key in FIGURES:
        figure: Figure | None = getattr(figures, key)
        if figure is not None:
            value, low, high = (_format(key, number) for number in (figure.value, figure.low, figure.high))
            yield f"  {_title(key):<18}{value:>8} ({low} to {high})"


def _of_listeners(count: int, noun: str, listeners: int) -> str:
    return f"{format_count(count, noun)} of {format_count(listeners, 'listener')}"


def _title(key: str) -> str:
    return METRICS[key].name if key in METRICS else f"{key} at 10"


def _format(key: str, value: float) -> str:
    return METRICS[key].format(value) if key in METRICS else f"{100 * value:.2f} %"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"
