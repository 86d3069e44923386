"""Monitoring: what listeners did with the live bundle in the last week, beside what they did when it was new."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from sqlalchemy import ColumnElement, and_, func, or_, select

from musix_runtime.engine import POLICIES, Engine
from musix_runtime.feedback.events import DAY_MS
from musix_runtime.feedback.reports import (
    CALIBRATION,
    DRIFT,
    EMERGENCY,
    NO_VARIANT,
    SKIP_RATE,
    Alarm,
    CalibrationDrift,
    InputDrift,
    LiveFigures,
    Report,
    Window,
)
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.feedback.tables import EVENTS, EXPOSURES
from musix_runtime.models.arrays import ABSENT
from musix_runtime.models.catalog import Catalog
from musix_runtime.registry import experiments
from musix_runtime.registry.experiments import Experiment
from musix_runtime.registry.registry import Registry
from musix_trainer.loop import calibration, drift
from musix_trainer.loop.drift import MAX_KL, MIN_LISTENERS, Profiles, genre_and_mood_shares, track_bins
from musix_trainer.loop.experiment import EVENT_COLUMNS, read_table
from musix_trainer.loop.listening import ACTIONS, METRICS, PLAYED
from musix_trainer.loop.live_figures import live_figures, shown_tracks
from musix_trainer.loop.policy import EMERGENCY_SKIP_RATE

LIVE_MS = 7 * DAY_MS
REFERENCE_MS = 28 * DAY_MS
EXTERNAL = "external"  # in place of a version, for lists that the host made
LISTS = {
    "user_id": pl.String,
    "list_id": pl.String,
    "time_ms": pl.Int64,
    "bundle": pl.String,
    "experiment": pl.String,
    "variant": pl.String,
    "tracks": pl.List(pl.Struct({"id": pl.String, "position": pl.Int64, "score": pl.Float64})),
}
Span = tuple[int, int]  # from, and before, in ms since 1970


@dataclass(frozen=True)
class Recorded:
    """What was recorded of a name in a span: its lists in order of time, their `shown_tracks`, and all events."""

    span: Span
    lists: pl.DataFrame
    shown: pl.DataFrame
    events: pl.DataFrame

    def without(self, variants: Sequence[tuple[str, str]]) -> "Recorded":
        """Return the same without the lists of these variants: pairs of experiment and variant."""
        other = pl.DataFrame(variants, {"experiment": pl.String, "variant": pl.String}, orient="row")
        lists, shown = (each.join(other, on=["experiment", "variant"], how="anti") for each in (self.lists, self.shown))
        return Recorded(self.span, lists, shown, self.events)

    def of_experiment(self, experiment: str | None) -> "Recorded":
        """Return the same with the lists of one experiment, and those of none."""
        ours = pl.col("experiment").is_null() | (pl.col("experiment") == pl.lit(experiment, pl.String))
        return Recorded(self.span, self.lists.filter(ours), self.shown.filter(ours), self.events)


def policy_variants(past: Iterable[Experiment]) -> list[tuple[str, str]]:
    """Return experiment and variant of the lists that a fixed policy made, not a version."""
    return [(each.id, variant) for each in past for variant, choice in each.choices.items() if choice in POLICIES]


def report_of(store: FeedbackStore, registry: Registry, name: str, now_ms: int) -> Report:
    """Return a report about the live version of `name`. Raises StoreError, BundleError, FeedbackError."""
    engine = registry.open_path(registry.live(name))
    return monitor(store, engine, experiments.read_readable(registry, name), now_ms)


def monitor(store: FeedbackStore, engine: Engine, past: Sequence[Experiment], now_ms: int) -> Report:
    """Return a report about the bundle of `engine`, by what the feedback store holds. Raises FeedbackError.

    The live window are the last 7 days. The reference are the first 28 days in which the bundle showed lists, so that
    a slow drift is found as well; it ends before the live window, and has at least 7 days. `past` are the experiments:
    lists of their fixed policies have other scores than the bundle.
    """
    bundle, catalog = engine.bundle, engine.catalog
    name, version = bundle.manifest.name, bundle.manifest.version
    live_from = now_ms - LIVE_MS
    first = min(first_list(store, EXPOSURES.c.bundle == bundle.name, now_ms) or live_from, live_from)
    reference = _read(store, catalog, name, reference_span(first, live_from))
    live = _read(store, catalog, name, (live_from, now_ms))
    plays = [_plays(recorded, catalog, bundle.name) for recorded in (reference, live)]
    known = [each.filter(pl.col("row").is_not_null()) for each in plays]
    seen = live.shown.filter((pl.col("bundle") == bundle.name) & pl.col("row").is_not_null()).select("user_id", "row")

    profiles = Profiles.of([*known, seen])
    bins = track_bins(catalog, profiles.rows)
    before, after, shown = profiles.weights
    drifts = drift.measure(catalog, before, after, bins, profiles.rows)
    policies = policy_variants(past)
    running = next((each.id for each in past if each.stopped_ms is None), None)
    scores = calibration.measure(*(_outcomes(each.without(policies), bundle.name) for each in (reference, live)))
    own = live.without(policies)
    bundles = {_version(key): figures for key, figures in _figures(own, "bundle", len(catalog)).items()}
    return Report(
        name=name,
        version=version,
        time_ms=now_ms,
        reference=_window(reference.span, plays[0]),
        live=_window(live.span, plays[1]),
        drift=drifts,
        calibration=scores,
        bundles=bundles,
        variants=_figures(live.of_experiment(running), "variant", len(catalog)),
        shown=genre_and_mood_shares(shown, bins),
        played=genre_and_mood_shares(after, bins),
        alarms=[*_drift_alarms(drifts), *_calibration_alarms(scores), *_skip_alarms(version, bundles.get(version))],
    )


def reference_span(first: int, live_from: int) -> Span:
    """Return the span of the reference, which is empty while it would be shorter than the live window."""
    until = min(first + REFERENCE_MS, live_from)
    return (first, until) if until - first >= LIVE_MS else (first, first)


def first_list(store: FeedbackStore, ours: ColumnElement[bool], now_ms: int) -> int | None:
    """Return when the first of these lists was shown, by a condition on exposures; None without one.

    What seems to be shown later than now has the time of a wrong clock, and does not count.
    """
    past = select(func.min(EXPOSURES.c.time_ms)).where(ours, EXPOSURES.c.time_ms <= now_ms)
    ((time,),) = (row for rows in store.read(past) for row in rows)
    return None if time is None else int(time)


def of_name(name: str) -> ColumnElement[bool]:
    """Return the condition that a bundle of a name made a list: NAME-VERSION, and not NAME-OTHER-VERSION."""
    return EXPOSURES.c.bundle.regexp_match(rf"^{name}-[0-9]+\.[0-9]+\.[0-9]+$")


def _read(store: FeedbackStore, catalog: Catalog, name: str, span: Span) -> Recorded:
    lists, events = _read_lists(store, name, span), _read_events(store, span)
    return Recorded(span, lists, _with_rows(shown_tracks(lists, events), catalog), events)


def _read_lists(store: FeedbackStore, name: str, span: Span) -> pl.DataFrame:
    """Return the lists of all versions of a name, and those that hosts made for its experiments."""
    of_hosts = and_(EXPOSURES.c.bundle == "", EXPOSURES.c.experiment.startswith(f"{name}/", autoescape=True))
    ours = or_(of_name(name), of_hosts)
    wanted = select(*(EXPOSURES.c[column] for column in LISTS)).where(ours, EXPOSURES.c.error.is_(None))
    wanted = wanted.where(*within(EXPOSURES.c.time_ms, span)).order_by(EXPOSURES.c.time_ms, EXPOSURES.c.id)
    return read_table(store.read(wanted), LISTS).with_columns(pl.col("variant").fill_null(NO_VARIANT))


def _read_events(store: FeedbackStore, span: Span) -> pl.DataFrame:
    wanted = select(*(EVENTS.c[column] for column in EVENT_COLUMNS)).where(EVENTS.c.action.in_(ACTIONS))
    return read_table(store.read(wanted.where(*within(EVENTS.c.occurred_ms, span))), EVENT_COLUMNS)


def within(time: Any, span: Span) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Return the conditions that a time is in a span."""
    return time >= span[0], time < span[1]


def _with_rows(frame: pl.DataFrame, catalog: Catalog) -> pl.DataFrame:
    """Add the row of each track_id in the catalogue, null for unknown ones."""
    ids = frame["track_id"].unique()
    rows = pl.Series(catalog.rows(ids.to_list()), dtype=pl.Int64)
    known = pl.DataFrame({"track_id": ids, "row": rows}).filter(pl.col("row") != ABSENT)
    return frame.join(known, on="track_id", how="left")


def _plays(recorded: Recorded, catalog: Catalog, bundle: str) -> pl.DataFrame:
    """Return user_id and row of every play of the listeners to whom the bundle showed a list in the span."""
    users = recorded.lists.filter(pl.col("bundle") == bundle).select("user_id").unique()
    plays = recorded.events.filter(PLAYED).join(users, on="user_id", how="semi").select("user_id", "track_id")
    return _with_rows(plays, catalog).select("user_id", "row")


def _window(span: Span, plays: pl.DataFrame) -> Window:
    known = plays.drop_nulls("row")
    return Window(*span, known["user_id"].n_unique(), known.height, plays.height - known.height)


def _outcomes(recorded: Recorded, bundle: str) -> pl.DataFrame:
    """Return user_id, score and liked of the tracks that were started, of lists that the bundle's network ranked."""
    ranked = recorded.shown.filter((pl.col("bundle") == bundle) & pl.col("started") & pl.col("score").is_not_null())
    return ranked.select("user_id", "score", "liked")


def _figures(recorded: Recorded, column: str, catalogue: int) -> dict[str, LiveFigures]:
    """Return the figures of the lists by each value of a column."""
    return {
        value: live_figures(
            recorded.lists.filter(pl.col(column) == value),
            recorded.shown.filter(pl.col(column) == value),
            recorded.events,
            catalogue,
        )
        for value in recorded.lists[column].unique().sort().to_list()
    }


def _version(bundle: str) -> str:
    return bundle.rpartition("-")[2] or EXTERNAL


def _drift_alarms(drifts: dict[str, InputDrift]) -> list[Alarm]:
    return [
        Alarm(
            f"{DRIFT}/{name}",
            f"{name}: expected a KL divergence of at most {MAX_KL:g} from the reference, found {each.kl:.2f},"
            f" at least {each.low:.2f}",
        )
        for name, each in drifts.items()
        if each.kl is not None and each.low is not None and each.low > MAX_KL
    ]


def _calibration_alarms(found: CalibrationDrift) -> list[Alarm]:
    if found.error is None or found.low is None or found.low <= calibration.MAX_ERROR:
        return []
    sentence = (
        f"scores: expected a calibration error of at most {calibration.MAX_ERROR:g}, found {found.error:.2f},"
        f" at least {found.low:.2f}"
    )
    return [Alarm(CALIBRATION, sentence)]


def _skip_alarms(version: str, figures: LiveFigures | None) -> list[Alarm]:
    """Return the alarms about the skip rate of the live version, where it is surely above a limit."""
    if figures is None or figures.skip_rate is None or figures.listeners < MIN_LISTENERS:
        return []
    metric, found = METRICS["skip_rate"], figures.skip_rate
    return [
        Alarm(
            key,
            f"{metric.name} of {version}: expected below {metric.format(limit)},"
            f" found {metric.format(found.value)}, at least {metric.format(found.low)}",
        )
        for key, limit in ((EMERGENCY, EMERGENCY_SKIP_RATE), (SKIP_RATE, metric.target))
        if found.low > limit
    ]
