"""Figures of the lists that were shown in a window: how good they were, by what listeners did with them."""

import math

import numpy as np
import polars as pl

from musix_runtime.feedback.reports import Figure, LiveFigures
from musix_trainer.loop.comparison import Floats, heaviest, ratio
from musix_trainer.loop.listening import (
    LISTED,
    METRICS,
    SKIPPED_EARLY,
    STARTED,
    attribute,
    listeners_of,
    metric_sums,
    times_of,
    tracks_of,
)

FIRST = 10  # tracks of a list that count for its precision
NORMAL_95 = 1.96  # standard errors to each side of an interval of 95 %


def shown_tracks(lists: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each track of each list, with `started` and `liked`: whether the listener started it, and did
    not skip it within 30 s.

    `lists` have the columns time_ms and tracks, of id, position and score. Events count that name the list and a track
    of it, and occurred after it was shown.
    """
    of_lists = events.join(times_of(lists), on=LISTED)
    by_track = of_lists.filter(pl.col("occurred_ms") >= pl.col("list_ms")).group_by(LISTED)
    done = by_track.agg(started=STARTED.any(), skipped=SKIPPED_EARLY.any())
    joined = tracks_of(lists).join(done, on=LISTED, how="left")
    started = pl.col("started").fill_null(False)
    return joined.with_columns(started=started, liked=started & ~pl.col("skipped").fill_null(False))


def live_figures(lists: pl.DataFrame, shown: pl.DataFrame, events: pl.DataFrame, catalogue: int) -> LiveFigures:
    """Return the figures of lists, in order of their times, of their `shown_tracks`, and of the events of the window.

    `shown` has the row of each track in a catalogue of so many tracks, null for tracks that it does not have.
    """
    listeners, attributed = listeners_of(lists), attribute(events, lists)
    sums = {key: metric_sums(metric, listeners, attributed) for key, metric in METRICS.items()}
    return LiveFigures(
        listeners=listeners.height,
        lists=lists.height,
        coverage=shown["row"].drop_nulls().n_unique() / catalogue,
        precision=_precision(shown),
        **{key: figure(each.numerator, each.denominator, each.largest) for key, each in sums.items()},
    )


def _precision(shown: pl.DataFrame) -> Figure | None:
    """Return the precision of the lists, as the mean over listeners of the mean over their lists."""
    by_list = shown.filter(pl.col("position") <= FIRST).group_by("user_id", "list_id").agg(pl.col("liked").mean())
    values = by_list.group_by("user_id").agg(pl.col("liked").mean())["liked"].sort().to_numpy()
    return figure(values, np.ones_like(values))


def figure(numerator: Floats, denominator: Floats, largest: float = 1.0) -> Figure | None:
    """Return the ratio of listeners (n,), from 0 to `largest`, with its interval of 95 %.

    Returns None for less than two listeners with data.
    """
    count = np.count_nonzero(denominator)
    if count < 2:
        return None
    value, errors = ratio(numerator, denominator, heaviest(denominator))
    half = NORMAL_95 * math.sqrt(np.square(errors).sum() * count / (count - 1))
    return Figure(value, max(value - half, 0.0), min(value + half, largest))
