"""Recall audit: the searches of a few recommendations are repeated exactly, to see how much they find in real use."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from musix_runtime.engine import Engine
from musix_runtime.schemas import RecommendRequest

logger = logging.getLogger(__name__)
INTERVAL_S = 0.5


class RecallAudit:
    """Repeats the searches of one recommendation in `every` (0: of none) while the server is idle.

    `observe` takes the part of the index and the share of the exact nearest vectors that were found. While the server
    is busy only the newest of these recommendations waits.
    """

    def __init__(self, observe: Callable[[str, float], None], idle: Callable[[], bool], every: int) -> None:
        self._observe = observe
        self._idle = idle
        self._every = every
        self._offered = 0
        self._waiting: deque[tuple[Engine, RecommendRequest]] = deque(maxlen=1)

    def offer(self, engine: Engine, request: RecommendRequest) -> None:
        """Take one request in `every`, which the engine has answered. Never waits."""
        self._offered += 1
        if self._every and self._offered % self._every == 0:
            self._waiting.append((engine, request))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Repeat searches in a thread until the context ends."""
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop,), name="musix-recall-audit", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(INTERVAL_S):
            if self._waiting and self._idle():
                self._repeat(*self._waiting.pop())

    def _repeat(self, engine: Engine, request: RecommendRequest) -> None:
        try:
            for part, recall in engine.recall(request).items():
                self._observe(part, recall)
        except Exception:  # of any kind: the thread goes on
            logger.exception("a search was not repeated")
