"""Stages: how the time of one answer divides."""

from collections.abc import Iterable
from time import perf_counter

RECOMMEND = ("look-up", "candidates", "features", "ranker", "reasons", "metadata")  # in this order; then "JSON"


class Stages:
    """A stopwatch for one answer: each `lap` ends the stage that began with the lap before it."""

    __slots__ = ("_last", "seconds")

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, stage: str) -> None:
        """Give the time since the last lap, or since the start, to `stage`."""
        self.give(stage, perf_counter() - self._last)

    def give(self, stage: str, seconds: float) -> None:
        """Give only so much of that time to `stage`."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self._last += seconds


def lap(stages: Iterable[Stages], stage: str) -> None:
    """End a stage of every answer of a batch: each takes as long as all of them."""
    for each in stages:
        each.lap(stage)
