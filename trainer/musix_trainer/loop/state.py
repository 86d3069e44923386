"""What the retraining policy decides by, read from a registry and a feedback store."""

import numpy as np
import polars as pl
from sqlalchemy import ColumnElement, and_, func, or_, select, tuple_

from musix_runtime.feedback.events import DAY_MS
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.feedback.tables import EVENTS, EXPOSURES
from musix_runtime.registry import experiments, rollouts
from musix_runtime.registry.experiments import Experiment
from musix_runtime.registry.registry import Registry
from musix_trainer.loop import journal
from musix_trainer.loop.comparison import Difference, Estimate, Sums, compare, estimate
from musix_trainer.loop.experiment import MIN_LISTENERS, read_table
from musix_trainer.loop.listening import LISTED, METRICS, times_of
from musix_trainer.loop.monitoring import LIVE_MS, Span, first_list, of_name, policy_variants, reference_span, within
from musix_trainer.loop.policy import State

Condition = ColumnElement[bool]  # on the table of exposures
LISTS = {
    "user_id": pl.String,
    "list_id": pl.String,
    "time_ms": pl.Int64,
    "tracks": pl.List(pl.Struct({"id": pl.String})),
}
COLUMNS = {
    "user_id": pl.String,
    "occurred_ms": pl.Int64,
    "list_id": pl.String,
    "track_id": pl.String,
    "action": pl.String,
    "ms_played": pl.Int64,
}


def read_state(registry: Registry, name: str, store: FeedbackStore, now_ms: int) -> State:
    """Return what is known now, without the change of the skip rate and alarms. Raises StoreError, FeedbackError.

    What was recorded more than a day later than now has the time of a wrong clock, and does not count.
    """
    live, *earlier = registry.history(name)
    records = [each for each in journal.read_all(registry, name) if each.time_ms <= now_ms + DAY_MS]
    trained = next((record.time_ms for record in records if record.action == "retrain"), None)
    back = next((each for each in records if each.action == "roll back" and each.outcome in ("done", "refused")), None)
    first = first_list(store, of_name(name), now_ms)
    latest = records[0] if records and records[0].action == "roll back" else None
    running = experiments.running(registry, name)
    return State(
        now_ms=now_ms,
        first_ms=now_ms if first is None else first,
        trained_ms=trained,
        previous=earlier[0] if earlier else None,
        rolled_back=latest is not None and (latest.outcome == "refused" or latest.version == live),
        rolled_back_ms=back.time_ms if back else None,
        rollout_since_ms=_rollout_since(registry, running),
        listeners=_listeners(store, name, (now_ms - LIVE_MS, now_ms)),
        busy=None if running is None else _title(running),
        skip_rate=_skip_rate(store, _lists_of_live(registry, name), now_ms),
        skip_change=None,
        alarms=(),
    )


def read_skip_change(registry: Registry, name: str, store: FeedbackStore, now_ms: int) -> Difference | None:
    """Return the difference of the skip rate of the live version's lists in the latest week to that in their first four
    weeks.

    None for fewer than 50 listeners in any of both, and until the first list is two weeks old. Raises StoreError,
    FeedbackError.
    """
    ours, live_from = _lists_of_live(registry, name), now_ms - LIVE_MS
    first = first_list(store, ours, now_ms)
    span = reference_span(live_from if first is None else first, live_from)
    recent, before = (_by_day(_skips(store, ours, each), each) for each in ((live_from, now_ms), span))
    if min(recent.height, before.height) < MIN_LISTENERS:
        return None
    both = pl.concat([before.with_columns(treated=False), recent.with_columns(treated=True)])
    sums = Sums(
        listener=both["user_id"].rank("dense").to_numpy().astype(np.int64) - 1,
        treated=both["treated"].to_numpy(),
        numerator=both["numerator"].to_numpy(),
        denominator=both["denominator"].to_numpy(),
        before=np.zeros(both.height),
    )
    return compare(sums, planned=both["user_id"].n_unique())


def read_chosen(store: FeedbackStore, since_ms: int) -> pl.DataFrame:
    """Return user_id and track_id of the tracks that were played since a time and came from no list. Raises
    FeedbackError."""
    wanted = select(EVENTS.c.user_id, EVENTS.c.track_id).where(
        EVENTS.c.action == "played", EVENTS.c.list_id.is_(None), EVENTS.c.occurred_ms >= since_ms
    )
    return read_table(store.read(wanted), {"user_id": pl.String, "track_id": pl.String})


def _title(running: Experiment) -> str:
    rollout = running.rollout
    return f"experiment {running.id}" if rollout is None else f"rollout {running.name}/{rollout}"


def _rollout_since(registry: Registry, running: Experiment | None) -> int | None:
    if running is None or running.rollout is None:
        return None
    return rollouts.read(registry, running.name, running.rollout).journal[0].time_ms


def _listeners(store: FeedbackStore, name: str, span: Span) -> int:
    wanted = select(func.count(EXPOSURES.c.user_id.distinct())).where(*within(EXPOSURES.c.time_ms, span), of_name(name))
    ((count,),) = next(iter(store.read(wanted)))
    return int(count)


def _lists_of_live(registry: Registry, name: str) -> Condition:
    """Return the condition that the live version made a list, and not one of the fixed policies of an experiment."""
    variant = tuple_(EXPOSURES.c.experiment, EXPOSURES.c.variant)
    policies = policy_variants(experiments.read_readable(registry, name))
    bundle = f"{name}-{registry.history(name)[0]}"
    return and_(EXPOSURES.c.bundle == bundle, or_(EXPOSURES.c.experiment.is_(None), variant.not_in(policies)))


def _skip_rate(store: FeedbackStore, ours: Condition, now_ms: int) -> Estimate | None:
    """Return the skip rate of the lists of the latest day; None for fewer than 50 listeners."""
    skips = _skips(store, ours, (now_ms - DAY_MS, now_ms))
    if skips.height < MIN_LISTENERS:
        return None
    return estimate(skips["numerator"].to_numpy(), skips["denominator"].to_numpy())


def _by_day(sums: pl.DataFrame, span: Span) -> pl.DataFrame:
    """Return sums as those of a day in the mean: what counts as a heavy listener is the same in spans of any length."""
    return sums.with_columns(pl.col("numerator", "denominator") / ((span[1] - span[0]) / DAY_MS))


def _skips(store: FeedbackStore, ours: Condition, span: Span) -> pl.DataFrame:
    """Return user_id, numerator and denominator of the skip rate of each listener, of lists of a span in that span.

    Both tables are read by time and joined here: the database would look up the events of each list one by one.
    """
    if span[0] >= span[1]:
        return pl.DataFrame(schema={"user_id": pl.String, "numerator": pl.Float64, "denominator": pl.Float64})
    wanted = select(*(EXPOSURES.c[name] for name in LISTS)).where(ours, *within(EXPOSURES.c.time_ms, span))
    lists = read_table(store.read(wanted), LISTS)
    started = EVENTS.c.action.in_(("played", "skipped")), EVENTS.c.list_id.is_not(None)
    wanted = select(*(EVENTS.c[name] for name in COLUMNS)).where(*started, *within(EVENTS.c.occurred_ms, span))
    events = read_table(store.read(wanted), COLUMNS)
    shown = events.join(times_of(lists), on=LISTED).with_columns(shown=pl.col("occurred_ms") >= pl.col("list_ms"))
    return METRICS["skip_rate"].sums(shown)
