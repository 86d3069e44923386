"""Time of each stage of one request, as the header `Server-Timing` shows it."""

from collections.abc import Iterable
from time import perf_counter

RECOMMEND_STAGES = ("lookup", "candidates", "features", "ranker", "explain", "hydrate")  # in this order; then "JSON"


class StageTimer:
    """A stopwatch for one request. A `mark` ends the stage that began at the previous mark."""

    __slots__ = ("_last", "seconds")

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = perf_counter()

    def mark(self, stage: str) -> None:
        """Add the time since the last mark, or since the start, to `stage`."""
        self.add(stage, perf_counter() - self._last)

    def add(self, stage: str, seconds: float) -> None:
        """Add only `seconds` of the time since the last mark to `stage`."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self._last += seconds


def mark_all(timers: Iterable[StageTimer], stage: str) -> None:
    """End a stage of all requests of a batch. Each request counts the whole time of the batch."""
    for timer in timers:
        timer.mark(stage)
