"""What the listeners of an experiment did: events beside the lists that were shown, and the metrics of both.

A metric is a numerator and a denominator for each listener, from the first list of the experiment on. The same sums
from the time before that list are what CUPED adjusts by.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from musix_trainer.loop.comparison import Floats, Sums

SKIP_MS = 30_000
SESSION_GAP_MS = 30 * 60_000
ACTIONS = ("played", "skipped", "saved")
STARTED = pl.col("action").is_in(["played", "skipped"])
PLAYED = pl.col("action") == "played"
SKIPPED_EARLY = (pl.col("action") == "skipped") & (pl.col("ms_played").fill_null(0) < SKIP_MS)


@dataclass(frozen=True)
class Metric:
    """A metric that experiments compare: `numerator` over `denominator`, both from the table of events."""

    key: str
    name: str
    better: int  # 1 when more is better, -1 when less is
    target: float
    definition: str
    sums: Callable[[pl.DataFrame], pl.DataFrame]  # events -> user_id, numerator, denominator
    share: bool = True  # a share is shown in percent

    def format(self, value: float) -> str:
        """Return a value or a difference of the metric as text."""
        return f"{100 * value:.2f} %" if self.share else f"{value:.2f}"


def _skips(events: pl.DataFrame) -> pl.DataFrame:
    return _by_shown(events, SKIPPED_EARLY)


def _saves(events: pl.DataFrame) -> pl.DataFrame:
    return _by_shown(events, pl.col("action") == "saved")


def _by_shown(events: pl.DataFrame, condition: pl.Expr) -> pl.DataFrame:
    """Count the tracks of lists that were started, and those of them for which `condition` was met."""
    tracks = events.filter(pl.col("shown")).group_by("user_id", "list_id", "track_id")
    started = tracks.agg(STARTED.any().alias("started"), condition.any().alias("met")).filter(pl.col("started"))
    return started.group_by("user_id").agg(numerator=pl.col("met").sum(), denominator=pl.len())


def _session_tracks(events: pl.DataFrame) -> pl.DataFrame:
    """Count the tracks that were played, and the sessions: by id, or by gaps of 30 minutes where there is none."""
    ordered = (
        events.filter(STARTED).sort("user_id", "occurred_ms").with_columns(named=pl.col("session_id").is_not_null())
    )
    gap = pl.col("occurred_ms") - pl.col("occurred_ms").shift().over("user_id", "named")
    first = pl.struct("user_id", "session_id").is_first_distinct()
    begins = first | (~pl.col("named") & (gap > SESSION_GAP_MS))
    sessions = ordered.with_columns(begins.fill_null(False).alias("begins")).group_by("user_id")
    return sessions.agg(numerator=PLAYED.sum(), denominator=pl.col("begins").sum())


def _repeats(events: pl.DataFrame) -> pl.DataFrame:
    """Count the tracks that were played from a list, and those of them that were played again, from anywhere."""
    tracks = events.filter(PLAYED).group_by("user_id", "track_id")
    plays = tracks.agg(plays=pl.len(), shown=pl.col("shown").any()).filter(pl.col("shown"))
    return plays.group_by("user_id").agg(numerator=(pl.col("plays") > 1).sum(), denominator=pl.len())


METRICS = {
    metric.key: metric
    for metric in (
        Metric("skip_rate", "skip rate", -1, 0.20, "started tracks of lists that were skipped within 30 s", _skips),
        Metric("save_rate", "save rate", 1, 0.08, "started tracks of lists that were saved", _saves),
        Metric(
            "session_tracks", "tracks a session", 1, 5.0, "tracks that were played in a session", _session_tracks, False
        ),
        Metric("repeat_rate", "repeat rate", 1, 0.15, "tracks played from lists that were played again", _repeats),
    )
}


def listeners_of(lists: pl.DataFrame) -> pl.DataFrame:
    """Return user_id, treated and first_ms of each listener: the variant and time of their first list.

    `lists` are user_id, list_id, time_ms and variant, in the order of their times.
    """
    first = lists.group_by("user_id", maintain_order=True).agg(pl.col("variant").first(), pl.col("time_ms").first())
    return first.select("user_id", treated=pl.col("variant") == "treatment", first_ms=pl.col("time_ms"))


def attribute(events: pl.DataFrame, lists: pl.DataFrame) -> pl.DataFrame:
    """Add to the events of listeners `after`: whether it came after their first list of the experiment; and `shown`:
    whether it belongs to such a list and came after that was shown, or belongs to any list if it came before.

    `events` are user_id, occurred_ms, session_id, list_id, track_id, action and ms_played.
    """
    timed = events.join(listeners_of(lists), on="user_id")
    ours = lists.select("user_id", "list_id", list_ms="time_ms").unique(["user_id", "list_id"])
    after = pl.col("occurred_ms") >= pl.col("first_ms")
    from_list = (pl.col("occurred_ms") >= pl.col("list_ms")).fill_null(False)
    shown = pl.when(after).then(from_list).otherwise(pl.col("list_id").is_not_null())
    return timed.join(ours, on=["user_id", "list_id"], how="left").with_columns(after=after, shown=shown)


def metric_sums(metric: Metric, listeners: pl.DataFrame, events: pl.DataFrame) -> Sums:
    """Return the sums of a metric, of `listeners_of` lists and the events that `attribute` returned."""
    numerator, denominator = _sums(metric, listeners, events.filter("after"))
    return Sums(
        listener=np.arange(listeners.height),
        treated=listeners["treated"].to_numpy(),
        numerator=numerator,
        denominator=denominator,
        before=_above_ratio(*_sums(metric, listeners, events.filter(~pl.col("after")))),
    )


def _sums(metric: Metric, listeners: pl.DataFrame, events: pl.DataFrame) -> tuple[Floats, Floats]:
    """Return numerators and denominators, of both the shape (listeners,)."""
    rows = listeners.select("user_id").join(metric.sums(events), on="user_id", how="left", maintain_order="left")
    columns = rows.select(pl.col("numerator", "denominator").cast(pl.Float64).fill_null(0))
    return columns["numerator"].to_numpy(), columns["denominator"].to_numpy()


def _above_ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Return how much each numerator is above what the ratio of all would give."""
    total = denominator.sum()
    return numerator - numerator.sum() / total * denominator if total else np.zeros_like(numerator)
