"""A comparison of two bundles on what listeners chose after both were trained."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from musix_runtime.engine import Engine
from musix_runtime.schemas import LIST_LIMIT, RecommendRequest
from musix_trainer.evaluation.bootstrap import ClusteredMetric, estimate

MAX_LISTENERS = 2000
MIN_LISTENERS = 50  # to tell that a bundle is worse
ENOUGH_LISTENERS = 1000  # to tell that it is not: with fewer, the interval is wider than the loss that is allowed
MAX_LOSS = 0.25  # of the live bundle's NDCG@10, that the candidate may lack
K = 10
BATCH = 16


@dataclass(frozen=True)
class Backtest:
    """NDCG@10 of the candidate and of the live bundle, and the interval (95 %) of their difference by listener."""

    listeners: int
    candidate: float
    live: float
    low: float
    high: float

    @property
    def fault(self) -> str | None:
        """What was expected of the difference, if the candidate is surely worse; or if it may be much worse, and there
        are enough listeners to tell."""
        if self.high < 0:
            return "expected an interval that reaches 0"
        allowed = -MAX_LOSS * self.live
        if self.low < allowed and self.listeners >= ENOUGH_LISTENERS:
            return f"expected at least {allowed:+.4f}"
        return None

    def __str__(self) -> str:
        return (
            f"NDCG@10 {self.candidate:.4f} against {self.live:.4f} of the live version, difference {self.low:+.4f} to"
            f" {self.high:+.4f} with {self.listeners:,} listeners"
        )


def backtest(live: Engine, candidate: Engine, heard: pl.DataFrame, later: pl.DataFrame) -> Backtest | None:
    """Compare two bundles on the tracks that listeners chose later themselves, for the first time.

    `heard` and `later` are user_id and track_id. Both bundles are asked for the next ten tracks of each listener,
    without what was heard; only tracks that both know count. What was played from a list must not be among `later`: it
    would favour the bundle that made the list. Returns None for fewer than 50 listeners.
    """
    rows = later.unique().join(heard, on=["user_id", "track_id"], how="anti")
    both = (live.catalog, candidate.catalog)
    known = [track for track in rows["track_id"].unique() if all(each.row(track) is not None for each in both)]
    relevant = rows.filter(pl.col("track_id").is_in(known)).group_by("user_id").agg("track_id").sort("user_id")
    if relevant.height < MIN_LISTENERS:
        return None
    if relevant.height > MAX_LISTENERS:
        relevant = relevant.sample(MAX_LISTENERS, seed=0).sort("user_id")
    before = heard.unique().group_by("user_id").agg(heard="track_id")
    listeners = relevant.join(before, on="user_id", how="left", maintain_order="left")
    gains = {name: _gains(engine, listeners) for name, engine in (("live", live), ("candidate", candidate))}
    clusters = np.arange(listeners.height)
    metrics = {name: ClusteredMetric.mean(values, clusters) for name, values in gains.items()}
    found = estimate(metrics["candidate"], {"live": metrics["live"]})
    difference = found["better_by"]["live"]
    return Backtest(listeners.height, found["value"], found["baselines"]["live"], difference["low"], difference["high"])


def _gains(engine: Engine, listeners: pl.DataFrame) -> NDArray[np.float64]:
    """Return the NDCG@10 of each listener (n,)."""
    requests = [
        RecommendRequest(user_id=user, limit=K, exclude_ids=(heard or [])[:LIST_LIMIT])
        for user, heard in listeners.select("user_id", "heard").iter_rows()
    ]
    discounts = 1 / np.log2(np.arange(2, K + 2))
    gains = []
    for start in range(0, len(requests), BATCH):
        answers = engine.recommend_batch(requests[start : start + BATCH])
        for answer, own in zip(answers, listeners["track_id"][start : start + BATCH], strict=True):
            hits = np.isin([track.id for track in answer.recommendations], own.to_list())
            gains.append(float(discounts[: len(hits)] @ hits / discounts[: len(own)].sum()))
    return np.array(gains)
