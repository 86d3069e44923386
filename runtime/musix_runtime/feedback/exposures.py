"""Exposures: the lists that were shown, and the thread that stores them in groups, off the path of the answers."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from msgspec import Struct

from musix_runtime.background import background
from musix_runtime.feedback.events import DAY_MS

logger = logging.getLogger(__name__)
QUEUE_LIMIT = 4096  # exposures that wait; one of 100 tracks has 10 kB
GROUP_SIZE = 500  # exposures in one transaction
WRITE_INTERVAL_S = 1.0  # groups of many lists take less time from the answers
DELETE_INTERVAL_S = 3600.0
WRITTEN, REFUSED, DROPPED = "written", "refused", "dropped"
RESULTS = (WRITTEN, REFUSED, DROPPED)
ADVICE = "below another application, use: async with app.router.lifespan_context(app)"


class Exposure(Struct, frozen=True):
    """A row of the table `exposures`: one list of recommendations.

    `variant` is what the experiment assigned to the user; `bundle` and `digest` tell which bundle answered, and are
    empty for a list that the host made. A recommendation that failed has no tracks, and the class of the error.
    """

    list_id: str
    time_ms: int  # since 1970
    user_id: str
    bundle: str  # its name and version
    digest: str
    source: str
    context: str  # JSON
    tracks: str  # JSON: [{"id", "position", "score"}]
    experiment: str | None = None  # NAME/NUMBER
    variant: str | None = None
    duration_us: int | None = None  # time to make the answer
    error: str | None = None


class ExposureStore(Protocol):
    """Where exposures are written: the part of a `FeedbackStore` that is needed for that."""

    def add_exposures(self, exposures: Sequence[Exposure]) -> int:
        """Store exposures, and return how many were stored."""

    def delete_before(self, time_ms: int) -> int:
        """Delete what is older, and return how much it was."""


class ExposureWriter:
    """A bounded queue of exposures, and the thread that writes them while `running`.

    Exposures are counted by `count(result, number)`. One is dropped when the queue is full, the database fails or no
    thread is running; the store refuses those of forgotten listeners. The thread also deletes what is older than
    `keep_days`, unless that is 0.
    """

    def __init__(self, store: ExposureStore, count: Callable[[str, int], None], keep_days: int = 0) -> None:
        self._store = store
        self._count = count
        self._keep_ms = keep_days * DAY_MS
        self._queue: deque[Exposure] = deque()
        self._is_running = False
        self._has_warned = False
        self._next_deletion = 0.0  # on the monotonic clock

    def add(self, exposure: Exposure) -> None:
        """Put an exposure on the queue, or drop it. Never waits, and may be called by any thread."""
        if self._is_running and len(self._queue) < QUEUE_LIMIT:
            self._queue.append(exposure)
            return
        self._count(DROPPED, 1)
        if not self._is_running and not self._has_warned:
            self._has_warned = True
            logger.error("exposures are not written: expected the lifespan of the application to run; %s", ADVICE)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write the exposures until the context ends, and then those that are left."""
        with background("musix-exposures", self._run):
            self._is_running = True
            try:
                yield
            finally:
                self._is_running = False

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(WRITE_INTERVAL_S):
            self.write()
            self._delete_old()
        self.write()

    def write(self) -> None:
        """Write all exposures on the queue. After a failure the others on the queue are dropped as well."""
        failed = False
        while self._queue:
            group = [self._queue.popleft() for _ in range(min(GROUP_SIZE, len(self._queue)))]
            if not failed:
                try:
                    written = self._store.add_exposures(group)
                except Exception as error:  # of any kind: the thread goes on
                    failed = True
                    logger.error("exposures were not written: %s", error)
            if failed:
                self._count(DROPPED, len(group))
            else:
                self._count(WRITTEN, written)
                self._count(REFUSED, len(group) - written)

    def _delete_old(self) -> None:
        """Delete what is too old, at most once in `DELETE_INTERVAL_S`."""
        if not self._keep_ms or time.monotonic() < self._next_deletion:
            return
        self._next_deletion = time.monotonic() + DELETE_INTERVAL_S
        try:
            deleted = self._store.delete_before(time.time_ns() // 1_000_000 - self._keep_ms)
        except Exception as error:  # of any kind: the thread goes on, and tries again after the interval
            logger.error("old feedback was not deleted: %s", error)
        else:
            logger.info("%d rows of old feedback were deleted", deleted)
