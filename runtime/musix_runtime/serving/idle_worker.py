"""Work that is done while a server is idle, in a thread."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from musix_runtime.background import background

logger = logging.getLogger(__name__)
INTERVAL_S = 0.1
MAX_WAITING = 64  # jobs; the oldest are dropped


class IdleWorker:
    """Does jobs, one after another, while `idle()` is true. While the server is busy, the newest jobs wait."""

    def __init__(self, idle: Callable[[], bool]) -> None:
        self._idle = idle
        self._jobs: deque[Callable[[], None]] = deque(maxlen=MAX_WAITING)

    def add(self, job: Callable[[], None]) -> None:
        """Take a job. Never waits, and may be called by any thread."""
        self._jobs.append(job)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Do jobs until the context ends."""
        with background("musix-idle", self._run):
            yield

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(INTERVAL_S):
            while self._jobs and self._idle() and not stop.is_set():
                self._do(self._jobs.popleft())

    def _do(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception:  # of any kind: the thread goes on
            logger.exception("a job was not done")
