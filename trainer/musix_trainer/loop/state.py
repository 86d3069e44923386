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
from musix_trainer.loop.listening import METRICS
from musix_trainer.loop.monitoring import LIVE_MS, first_list, policy_variants, reference_span
from musix_trainer.loop.policy import State

Condition = ColumnElement[bool]  # on the table of exposures
COLUMNS = {
    "user_id": pl.String,
    "list_id": pl.String,
    "track_id": pl.String,
    "action": pl.String,
    "ms_played": pl.Int64,
}


def read_state(registry: Registry, name: str, store: FeedbackStore, alarms: tuple[str, ...], now_ms: int) -> State:
    """Return what is known now. Raises StoreError, FeedbackError."""
    live, *earlier = registry.history(name)
    records = journal.latest(registry, name)
    trained = next((record.time_ms for record in records if record.action == "retrain"), None)
    first = first_list(store, _of_name(name))
    running = experiments.running(registry, name)
    ours = _lists_of(f"{name}-{live}", policy_variants(experiments.read_all(registry, name)))
    return State(
        now_ms=now_ms,
        trained_ms=trained if trained is not None else now_ms if first is None else first,
        previous=earlier[0] if earlier else None,
        rolled_back=bool(records) and records[0].action == "roll back" and records[0].version == live,
        rollout_since_ms=_rollout_since(registry, running),
        listeners=_listeners(store, name, now_ms - LIVE_MS),
        busy=None if running is None else f"{'experiment' if running.rollout is None else 'rollout'} {running.id}",
        skip_rate=_skip_rate(store, ours, now_ms),
        skip_change=_skip_change(store, ours, now_ms),
        alarms=alarms,
    )


def read_chosen(store: FeedbackStore, since_ms: int) -> pl.DataFrame:
    """Return user_id and track_id of the tracks that were played since a time and came from no list. Raises
    FeedbackError."""
    wanted = select(EVENTS.c.user_id, EVENTS.c.track_id).where(
        EVENTS.c.action == "played", EVENTS.c.list_id.is_(None), EVENTS.c.occurred_ms >= since_ms
    )
    return read_table(store.read(wanted), {"user_id": pl.String, "track_id": pl.String})


def _rollout_since(registry: Registry, running: Experiment | None) -> int | None:
    if running is None or running.rollout is None:
        return None
    return rollouts.read(registry, running.name, running.rollout).journal[0].time_ms


def _of_name(name: str) -> Condition:
    """Return the condition that a bundle of a name made a list."""
    return EXPOSURES.c.bundle.startswith(f"{name}-", autoescape=True)


def _listeners(store: FeedbackStore, name: str, since_ms: int) -> int:
    shown = EXPOSURES.c.time_ms >= since_ms, _of_name(name)
    wanted = select(func.count(EXPOSURES.c.user_id.distinct())).where(*shown)
    ((count,),) = next(iter(store.read(wanted)))
    return int(count)


def _lists_of(bundle: str, policies: list[tuple[str, str]]) -> Condition:
    """Return the condition that a bundle made a list, and not one of the fixed policies of an experiment."""
    variant = tuple_(EXPOSURES.c.experiment, EXPOSURES.c.variant)
    return and_(EXPOSURES.c.bundle == bundle, or_(EXPOSURES.c.experiment.is_(None), variant.not_in(policies)))


def _skip_rate(store: FeedbackStore, ours: Condition, now_ms: int) -> Estimate | None:
    """Return the skip rate of lists in the latest day; None for fewer than 50 listeners."""
    sums = _sums(store, ours, now_ms - DAY_MS, now_ms)
    if sums.height < MIN_LISTENERS:
        return None
    return estimate(sums["numerator"].to_numpy(), sums["denominator"].to_numpy())


def _skip_change(store: FeedbackStore, ours: Condition, now_ms: int) -> Difference | None:
    """Return the difference of the skip rate of lists in the latest week to that in their first four weeks.

    None for fewer than 50 listeners in any of both, and until the first list is two weeks old.
    """
    live_from = now_ms - LIVE_MS
    first = first_list(store, ours)
    since, until = reference_span(live_from if first is None else first, live_from)
    recent, before = _sums(store, ours, live_from, now_ms), _sums(store, ours, since, until)
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


def _sums(store: FeedbackStore, ours: Condition, since_ms: int, until_ms: int) -> pl.DataFrame:
    """Return user_id, and numerator and denominator of the skip rate of lists in a period."""
    wanted = (
        select(*(EVENTS.c[name] for name in COLUMNS))
        .join(EXPOSURES, (EVENTS.c.list_id == EXPOSURES.c.list_id) & (EVENTS.c.user_id == EXPOSURES.c.user_id))
        .where(ours, EXPOSURES.c.time_ms >= since_ms, EXPOSURES.c.time_ms < until_ms)
        .where(EVENTS.c.action.in_(("played", "skipped")), EVENTS.c.occurred_ms >= since_ms)
    )
    sums = METRICS["skip_rate"].sums(read_table(store.read(wanted), COLUMNS).with_columns(shown=True))
    return sums.with_columns(pl.col("numerator", "denominator").cast(pl.Float64))
