"""What the listeners of an experiment did: events beside the lists that were shown, and the metrics of both.

A metric is a ratio of two sums, a numerator and a denominator for each listener, from the first list of the experiment
on. What a listener adds to the ratio of the time before that list is what CUPED adjusts by.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from musix_trainer.loop.comparison import Floats, Sums, heaviest, ratio

SKIP_MS = 30_000
SESSION_GAP_MS = 30 * 60_000
SESSION_TRACKS = 100  # of each session that count at most: more is no person who listens
LISTED = ("user_id", "list_id", "track_id")  # what an event and the list that it names have in common
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
    count: Callable[[pl.DataFrame], pl.DataFrame]  # events -> user_id, numerator, denominator
    largest: float = 1.0  # the ratio of a listener is at most this

    def format(self, value: float) -> str:
        """Return a value of the metric as text: a share in percent."""
        return f"{100 * value:.2f} %" if self.largest == 1 else f"{value:.2f}"

    def format_difference(self, value: float) -> str:
        """Return a difference of two values as text: of shares in percentage points."""
        return f"{100 * value:.2f} points" if self.largest == 1 else f"{value:.2f}"

    def sums(self, events: pl.DataFrame) -> pl.DataFrame:
        """Return user_id, numerator and denominator of the listeners who have any, in order."""
        counted = self.count(events).filter(pl.col("denominator") > 0).sort("user_id")
        return counted.select("user_id", pl.col("numerator", "denominator").cast(pl.Float64))


def _skips(events: pl.DataFrame) -> pl.DataFrame:
    return _by_shown(events, SKIPPED_EARLY)


def _saves(events: pl.DataFrame) -> pl.DataFrame:
    return _by_shown(events, pl.col("action") == "saved")


def _by_shown(events: pl.DataFrame, condition: pl.Expr) -> pl.DataFrame:
    """Count the tracks of lists that were started, and those of them for which `condition` was met.

    A track of a list counts once, whatever the number of its events: as met if any of them meets the condition.
    """
    tracks = events.filter(pl.col("shown")).group_by(LISTED)
    started = tracks.agg(STARTED.any().alias("started"), condition.any().alias("met")).filter(pl.col("started"))
    return started.group_by("user_id").agg(numerator=pl.col("met").sum(), denominator=pl.len())


def _session_tracks(events: pl.DataFrame) -> pl.DataFrame:
    """Count the tracks that were played, and the sessions: by id, or by gaps of 30 minutes where there is none."""
    ordered = (
        events.filter(STARTED).sort("user_id", "occurred_ms").with_columns(named=pl.col("session_id").is_not_null())
    )
    gap = pl.col("occurred_ms") - pl.col("occurred_ms").shift().over("user_id", "named")
    begins = (~pl.col("named") & (gap > SESSION_GAP_MS)).fill_null(False)
    session = begins.cum_sum().over("user_id", "named")
    named = ordered.with_columns(unnamed=pl.when("named").then(None).otherwise(session))
    sessions = named.group_by("user_id", "session_id", "unnamed").agg(
        plays=PLAYED.sum().clip(upper_bound=SESSION_TRACKS)
    )
    return sessions.group_by("user_id").agg(numerator=pl.col("plays").sum(), denominator=pl.len())


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
            "session_tracks",
            "tracks a session",
            1,
            5.0,
            "tracks that were played in a session",
            _session_tracks,
            SESSION_TRACKS,
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


def tracks_of(lists: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each track of each list, with its track_id, and all else that `tracks` has of it."""
    return lists.explode("tracks").drop_nulls("tracks").unnest("tracks").rename({"id": "track_id"})


def times_of(lists: pl.DataFrame) -> pl.DataFrame:
    """Return LISTED of all tracks of lists, each once, and when that list was shown: list_ms."""
    return tracks_of(lists).select(*LISTED, list_ms="time_ms").unique(LISTED)


def attribute(events: pl.DataFrame, lists: pl.DataFrame) -> pl.DataFrame:
    """Add to the events of listeners `after`: whether it came after their first list of the experiment; and `shown`:
    whether such a list has the track and was shown to the listener before, or the event names any list if it came
    before the first one.

    `events` are user_id, occurred_ms, session_id, list_id, track_id, action and ms_played; `lists` have their `tracks`
    as well.
    """
    timed = events.join(listeners_of(lists), on="user_id")
    after = pl.col("occurred_ms") >= pl.col("first_ms")
    from_list = (pl.col("occurred_ms") >= pl.col("list_ms")).fill_null(False)
    shown = pl.when(after).then(from_list).otherwise(pl.col("list_id").is_not_null())
    return timed.join(times_of(lists), on=LISTED, how="left").with_columns(after=after, shown=shown)


def metric_sums(metric: Metric, listeners: pl.DataFrame, events: pl.DataFrame) -> Sums:
    """Return the sums of a metric, of `listeners_of` lists and the events that `attribute` returned."""
    numerator, denominator = _sums(metric, listeners, events.filter("after"))
    before = _sums(metric, listeners, events.filter(~pl.col("after")))
    return Sums(
        listener=np.arange(listeners.height),
        treated=listeners["treated"].to_numpy(),
        numerator=numerator,
        denominator=denominator,
        before=ratio(*before, heaviest(before[1]))[1] if before[1].any() else np.zeros_like(numerator),
        largest=metric.largest,
    )


def _sums(metric: Metric, listeners: pl.DataFrame, events: pl.DataFrame) -> tuple[Floats, Floats]:
    """Return the numerator and denominator of each listener, of the shape (listeners,), 0 where there is nothing."""
    found = listeners.select("user_id").join(metric.sums(events), on="user_id", how="left", maintain_order="left")
    return found["numerator"].fill_null(0.0).to_numpy(), found["denominator"].fill_null(0.0).to_numpy()
