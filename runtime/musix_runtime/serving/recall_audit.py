"""Recall audit: the searches of a few recommendations are repeated exactly, to see how much they find in real use."""

from collections.abc import Callable

from musix_runtime.engine import Engine
from musix_runtime.schemas import RecommendRequest
from musix_runtime.serving.idle_worker import IdleWorker


class RecallAudit:
    """Repeats the searches of one recommendation in `every` (0: of none).

    `observe` takes the part of the index and the share of the exact nearest vectors that were found.
    """

    def __init__(self, worker: IdleWorker, observe: Callable[[str, float], None], every: int) -> None:
        self._worker = worker
        self._observe = observe
        self._every = every
        self._offered = 0

    def offer(self, engine: Engine, request: RecommendRequest) -> None:
        """Take a request that the engine has answered. Never waits."""
        self._offered += 1
        if self._every and self._offered % self._every == 0:
            self._worker.add(lambda: self._repeat(engine, request))

    def _repeat(self, engine: Engine, request: RecommendRequest) -> None:
        for part, recall in engine.recall(request).items():
            self._observe(part, recall)
