"""Analysis of an experiment: its metrics by variant, its guardrails, and the verdict."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl
from sqlalchemy import select

from musix_runtime.clock import format_time, now_ms
from musix_runtime.engine import POLICIES
from musix_runtime.feedback.events import DAY_MS
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.feedback.tables import EVENTS, EXPOSURES
from musix_runtime.registry.experiments import EXTERNAL, Experiment
from musix_trainer.loop.comparison import Difference, Sums, compare, detectable, sample_ratio_evidence
from musix_trainer.loop.listening import ACTIONS, METRICS, Metric, attribute, listeners_of, metric_sums

MIN_LISTENERS = 50  # of each variant, before there is a verdict: the intervals are asymptotic
RATIO_EVIDENCE = 100.0
MAX_REPLACED = 0.05  # share of the lists of a variant that another bundle may have answered
MAX_P95_MS = 100.0
BEFORE_MS = 28 * DAY_MS  # before an experiment: what listeners did then explains some of their differences
Verdict = Literal["win", "loss", "no difference", "not yet", "broken"]
Decision = tuple[Verdict, str]  # with its reason
LISTS = {
    "user_id": pl.String,
    "list_id": pl.String,
    "time_ms": pl.Int64,
    "variant": pl.String,
    "bundle": pl.String,
    "duration_us": pl.Int64,
    "error": pl.String,
    "tracks": pl.List(pl.Struct({"id": pl.String})),
}
EVENT_COLUMNS = {
    "user_id": pl.String,
    "occurred_ms": pl.Int64,
    "session_id": pl.String,
    "list_id": pl.String,
    "track_id": pl.String,
    "action": pl.String,
    "ms_played": pl.Int64,
}


@dataclass(frozen=True)
class MetricResult:
    """A metric of both variants. `difference` is None while a variant has no data."""

    metric: Metric
    difference: Difference | None
    detectable: float | None  # the difference that the planned number of listeners finds
    listeners: int  # who have a rate, of the variant with fewer of them


@dataclass(frozen=True)
class Guardrail:
    """A figure that must not get worse, whatever the metric says."""

    key: str
    control: float | None
    treatment: float | None
    crossed: bool


@dataclass(frozen=True)
class Analysis:
    """What is known of an experiment now."""

    experiment: Experiment
    treatment_listeners: int
    control_listeners: int
    metrics: dict[str, MetricResult]
    guardrails: tuple[Guardrail, ...]
    verdict: Verdict
    reason: str


def analyse(store: FeedbackStore, experiment: Experiment) -> Analysis:
    """Analyse an experiment by what the feedback store holds. Raises FeedbackError."""
    lists, events = _read_lists(store, experiment), _read_events(store, experiment)
    analysis = analyse_tables(experiment, lists, events)
    if analysis.verdict != "not yet" or analysis.metrics[experiment.metric].listeners:
        return analysis
    if experiment.started_ms > now_ms():
        began = format_time(experiment.started_ms)
        return replace(analysis, reason=f"expected a start before now, found {began}: a clock was wrong")
    missing = "lists of" if lists.is_empty() else "events of the listeners of"
    return replace(analysis, reason=f"{store.name}: expected {missing} experiment {experiment.id}, found none")


def _read_lists(store: FeedbackStore, experiment: Experiment) -> pl.DataFrame:
    """Return the lists that were shown during an experiment, in the order of their times."""
    wanted = select(*(EXPOSURES.c[name] for name in LISTS)).where(EXPOSURES.c.experiment == experiment.id)
    wanted = wanted.where(EXPOSURES.c.time_ms >= experiment.started_ms)
    if experiment.stopped_ms is not None:
        wanted = wanted.where(EXPOSURES.c.time_ms <= experiment.stopped_ms)
    return read_table(store.read(wanted.order_by(EXPOSURES.c.time_ms, EXPOSURES.c.id)), LISTS)


def _read_events(store: FeedbackStore, experiment: Experiment) -> pl.DataFrame:
    """Return the events that metrics need: what occurred from `BEFORE_MS` before an experiment to its end.

    They are read by time, which is faster than by listener, and have those of other listeners as well. Of the stage of
    a rollout nothing from before is needed.
    """
    before_ms = 0 if experiment.rollout is not None else BEFORE_MS
    wanted = select(*(EVENTS.c[name] for name in EVENT_COLUMNS)).where(EVENTS.c.action.in_(ACTIONS))
    wanted = wanted.where(EVENTS.c.occurred_ms >= experiment.started_ms - before_ms)
    if experiment.stopped_ms is not None:
        wanted = wanted.where(EVENTS.c.occurred_ms <= experiment.stopped_ms)
    return read_table(store.read(wanted), EVENT_COLUMNS)


def read_table(groups: Iterable[Sequence[Any]], schema: Mapping[str, Any]) -> pl.DataFrame:
    """Return the rows that a feedback store yields in groups. A column of lists is stored as JSON."""
    nested = {name: kind for name, kind in schema.items() if isinstance(kind, pl.List)}
    stored = {**schema, **dict.fromkeys(nested, pl.String)}
    decoded = [pl.col(name).str.json_decode(kind) for name, kind in nested.items()]
    columns = (dict(zip(schema, zip(*rows, strict=True), strict=True)) for rows in groups)
    tables = (pl.DataFrame(each, schema=stored).with_columns(decoded) for each in columns)
    return pl.concat([pl.DataFrame(schema=schema), *tables])


def analyse_tables(experiment: Experiment, lists: pl.DataFrame, events: pl.DataFrame) -> Analysis:
    """Analyse an experiment by the columns LISTS of its lists, in order of time, and EVENT_COLUMNS of the events of its
    listeners.

    What came before the stage of a rollout does not count, as the treatment may have changed it already.
    """
    listeners, attributed = listeners_of(lists), attribute(events, lists)
    if experiment.rollout is not None:
        attributed = attributed.filter("after")
    results = {key: _result(metric, experiment, listeners, attributed) for key, metric in METRICS.items()}
    treated = int(listeners["treated"].sum())
    counts = treated, listeners.height - treated
    verdict, reason = _fault(experiment, lists, counts) or _decide(experiment, results[experiment.metric], counts)
    return Analysis(experiment, *counts, results, _guardrails(experiment, lists, counts), verdict, reason)


def _result(metric: Metric, experiment: Experiment, listeners: pl.DataFrame, events: pl.DataFrame) -> MetricResult:
    sums = metric_sums(metric, listeners, events)
    known = np.bincount(sums.treated[sums.denominator > 0], minlength=2)
    least = detectable(sums, experiment.listeners, experiment.share)
    return MetricResult(metric, compare(sums, experiment.listeners), least, int(known.min()))


def _fault(experiment: Experiment, lists: pl.DataFrame, counts: tuple[int, int]) -> Decision | None:
    """Return the verdict on an experiment whose figures mean nothing."""
    if sample_ratio_evidence(*counts, experiment.share) >= RATIO_EVIDENCE:
        share = counts[0] / sum(counts)
        return "broken", f"expected a share of {experiment.share:.3g} in the treatment, found {share:.3g}"
    variants = lists.group_by("user_id").agg(pl.col("variant").n_unique())
    if mixed := int((variants["variant"] > 1).sum()):
        return "broken", f"expected one variant for each listener, found {mixed:,} who saw both"
    for variant, choice in experiment.choices.items():
        other = _share_of_others(experiment, lists.filter(pl.col("variant") == variant), choice)
        if other > MAX_REPLACED:
            return "broken", f"expected {choice} to answer the {variant}, found {100 * other:.0f} % other lists"
    return None


def _share_of_others(experiment: Experiment, lists: pl.DataFrame, choice: str) -> float:
    """Return the share of the lists of a variant that another bundle made, or a bundle in place of the host; all
    listeners weigh the same. Any version of the name may answer for a policy."""
    if choice in POLICIES:
        return 0.0
    other = pl.col("bundle") != ("" if choice == EXTERNAL else f"{experiment.name}-{choice}")
    by_listener = lists.filter(pl.col("error").is_null()).group_by("user_id").agg(other=other.mean())
    return float(by_listener.select(pl.col("other").mean().fill_null(0.0)).item())


def _decide(experiment: Experiment, result: MetricResult, counts: tuple[int, int]) -> Decision:
    """Return the verdict by the interval of the metric."""
    metric, difference = result.metric, result.difference
    if result.listeners < MIN_LISTENERS or difference is None:
        expected = f"expected {MIN_LISTENERS} listeners of each variant with a {metric.name}"
        return "not yet", f"{expected}, found {result.listeners}"
    low, high = sorted((metric.better * difference.low, metric.better * difference.high))
    bounds = map(metric.format_difference, (difference.low, difference.high))
    interval = f"{metric.name}: difference between {' and '.join(bounds)}"
    if low > 0:
        return "win", interval
    if high < 0:
        return "loss", interval
    if sum(counts) < experiment.listeners:
        return "not yet", f"{interval}, with {sum(counts):,} of {experiment.listeners:,} listeners"
    return "no difference", interval


def _guardrails(experiment: Experiment, lists: pl.DataFrame, counts: tuple[int, int]) -> tuple[Guardrail, ...]:
    """Return the guardrails, of which none is crossed before there are listeners enough."""
    found = _errors(experiment, lists), _duration(lists)
    return found if min(counts) >= MIN_LISTENERS else tuple(replace(each, crossed=False) for each in found)


def _errors(experiment: Experiment, lists: pl.DataFrame) -> Guardrail:
    """Compare the share of requests that failed."""
    by_user = lists.group_by("user_id", pl.col("variant") == "treatment").agg(
        failed=pl.col("error").is_not_null().sum().cast(pl.Float64), requests=pl.len().cast(pl.Float64)
    )
    treated, failed, requests = (by_user[name].to_numpy() for name in ("variant", "failed", "requests"))
    rows = np.arange(by_user.height)
    difference = compare(Sums(rows, treated, failed, requests, np.zeros_like(failed)), experiment.listeners)
    if difference is None:
        return Guardrail("error_rate", None, None, crossed=False)
    return Guardrail("error_rate", difference.control, difference.treatment, crossed=difference.low > 0)


def _duration(lists: pl.DataFrame) -> Guardrail:
    """Compare the 95th percentiles of the time of an answer, in ms, with the promise."""
    control, treatment = (_p95_ms(lists.filter(pl.col("variant") == name)) for name in ("control", "treatment"))
    return Guardrail("p95_ms", control, treatment, crossed=treatment is not None and treatment > MAX_P95_MS)


def _p95_ms(lists: pl.DataFrame) -> float | None:
    """Return the time that 95 % of the answers took at most; all listeners weigh the same. None without answers."""
    timed = lists.drop_nulls("duration_us").with_columns(weight=1 / pl.len().over("user_id")).sort("duration_us")
    above = timed.filter(pl.col("weight").cum_sum() >= 0.95 * pl.col("weight").sum())["duration_us"]
    return None if above.is_empty() else float(above[0]) / 1000
