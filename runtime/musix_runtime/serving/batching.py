"""Dynamic batching with admission control: a FIFO queue in front of the event loop's only thread."""

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

from starlette.exceptions import HTTPException

RETRY_AFTER_S = 1
SHED_WINDOW_S = 0.2  # the share of rejected requests is measured over this time
SHED_RATIO = 0.25  # rejected to completed requests, above which the queue is made shorter
SHED_QUEUE_LIMIT = 4  # length of the shorter queue
MAX_BATCH_S = 0.04  # for a batch, by the times of those before it: the loop may be held for 50 ms
COST_DECAY = 0.5  # by which the longest time of a request counts less with each further batch
GATHER_S = 0.001  # after a batch, how long to wait until as many requests have come as were there before


class BatchHandler(Protocol):
    """An endpoint that answers batches of requests. The server's is `BatchedEndpoint` in `endpoints.py`."""

    max_batch_size: int  # maximum number of requests in one call of `handle_batch`

    @abstractmethod
    def handle_batch(self, requests: list[Any]) -> list[Any]:
        """Return the response to each request, in order."""


@dataclass(frozen=True, eq=False)
class _PendingRequest:
    endpoint: BatchHandler
    request: Any
    batch_key: object
    future: "asyncio.Future[Any]"

    def joins(self, first: "_PendingRequest") -> bool:
        """Return whether this request can be answered in the batch of `first`."""
        return self.batch_key is first.batch_key and self.endpoint is first.endpoint and not self.future.done()


@dataclass(eq=False)
class _Queue:
    """The requests that wait for one event loop, at most `limit`."""

    loop: asyncio.AbstractEventLoop
    limit: int
    waiting: deque[_PendingRequest] = field(default_factory=deque)
    scheduled: bool = False
    answered: int = 0  # requests in the last batch
    expected: int = 0  # requests for which the next batch waits, until `gather_until` on the loop's clock
    gather_until: float = 0.0
    admitted: int = 0  # requests that were admitted and will be submitted in this iteration of the loop
    shedding: bool = False
    window_start: float = 0.0  # on the loop's clock
    completed: int = 0  # requests in this window
    rejected: int = 0  # requests in this window
    costs: dict[BatchHandler, float] = field(default_factory=dict)  # of one request in the last batches, in seconds

    @property
    def idle(self) -> bool:
        return not (self.scheduled or self.waiting)

    def is_full(self) -> bool:
        """Return whether the next request is rejected, and count the rejection."""
        now = self.loop.time()
        if now >= self.window_start + SHED_WINDOW_S:
            recent = now < self.window_start + 2 * SHED_WINDOW_S
            self.shedding = recent and self.rejected > SHED_RATIO * self.completed
            self.window_start, self.completed, self.rejected = now, 0, 0
        limit = min(SHED_QUEUE_LIMIT, self.limit) if self.shedding else self.limit
        if len(self.waiting) + self.admitted < limit:
            return False
        self.rejected += 1
        return True

    def try_admit(self) -> bool:
        """Reserve a place for one request until the next iteration of the loop; return whether there is one."""
        if self.is_full():
            return False
        self.admitted += 1
        if self.admitted == 1:
            self.loop.call_soon(self._clear_admitted)
        return True

    def _clear_admitted(self) -> None:
        self.admitted = 0

    def schedule(self, answered: int) -> None:
        """Answer the next batch after the loop has polled its sockets. The last batch had `answered` requests."""
        if not self.scheduled:
            self.scheduled, self.answered = True, answered
            self.loop.call_soon(self._responses_sent)

    def _responses_sent(self) -> None:
        """Expect the clients that were answered to ask again, beside the requests that wait."""
        self.expected = self.answered + len(self.waiting) if self.answered > 1 or self.waiting else 0
        if self.waiting:
            self.expected = min(self.expected, self.waiting[0].endpoint.max_batch_size)
        self.gather_until = self.loop.time() + GATHER_S
        self._poll_sockets()

    def _poll_sockets(self) -> None:
        """Let the loop read from its sockets once more before the batch, if there is one, or until it is complete."""
        self._drop_cancelled()
        if len(self.waiting) < self.expected and self.loop.time() < self.gather_until:
            self.loop.call_soon(self._poll_sockets)
        elif self.waiting:
            self.loop.call_soon(self._answer_next)
        else:
            self.scheduled = False

    def _answer_next(self) -> None:
        self._drop_cancelled()
        self.scheduled = False
        batch = self._next_batch() if self.waiting else []
        if batch:
            self._answer(batch)
        self.schedule(len(batch))

    @contextmanager
    def measuring(self, endpoint: BatchHandler, count: int) -> Iterator[None]:
        """Count `count` requests that the block answers, and keep the time that one of them takes."""
        self.completed += count
        start = perf_counter()
        try:
            yield
        finally:
            seconds = (perf_counter() - start) / count
            self.costs[endpoint] = max(seconds, COST_DECAY * self.costs.get(endpoint, 0))

    def _drop_cancelled(self) -> None:
        """Remove requests from the head of the queue whose clients have disconnected."""
        while self.waiting and self.waiting[0].future.done():
            self.waiting.popleft()

    def _next_batch(self) -> list[_PendingRequest]:
        first = self.waiting.popleft()
        size, cost = first.endpoint.max_batch_size, self.costs.get(first.endpoint, 0)
        if size * cost > MAX_BATCH_S:
            size = max(1, int(MAX_BATCH_S / cost))
        others = [pending for pending in self.waiting if pending.joins(first)][: size - 1]
        for pending in others:
            self.waiting.remove(pending)
        return [first, *others]

    def _answer(self, batch: list[_PendingRequest]) -> None:
        with self.measuring(batch[0].endpoint, len(batch)):
            results = _results(batch)
        for pending, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                pending.future.set_exception(result)
            else:
                pending.future.set_result(result)


class DynamicBatcher:
    """Answers requests in order of arrival, one batch after another, on the event loop.

    Waiting requests of one endpoint and batch key are answered together, when the first of them is due; fewer while
    each takes long, so that a batch takes about `MAX_BATCH_S` at most. Between two batches the loop polls its sockets,
    so a request that has to be rejected is rejected within milliseconds. A request to an idle server is answered at
    once; after a batch, the next one waits up to `GATHER_S` for as many requests.

    At most `max_queue` requests wait. Rejecting takes time from answering, so while many are rejected only
    `SHED_QUEUE_LIMIT` may wait: the latency of answered requests stays the same under overload.
    """

    def __init__(self, max_queue: int) -> None:
        self._max_queue = max_queue
        self._queue: _Queue | None = None

    def is_full(self) -> bool:
        """Return whether the queue is full, so that the next request is rejected."""
        return self._queue_of(asyncio.get_running_loop()).is_full()

    def try_admit(self) -> bool:
        """Return whether one more request may come. The caller will `submit` it in this iteration of the loop."""
        return self._queue_of(asyncio.get_running_loop()).try_admit()

    def is_idle(self) -> bool:
        """Return whether no request waits. May be called by any thread."""
        return self._queue is None or self._queue.idle

    async def submit(self, endpoint: BatchHandler, request: Any, batch_key: object = None) -> Any:
        """Return the response that `endpoint.handle_batch` gives to `request`.

        Requests share a batch when their endpoint and batch key are the same objects. Raises HTTPException 503 when the
        queue is full, and the error of `handle_batch` for this request.
        """
        loop = asyncio.get_running_loop()
        queue = self._queue_of(loop)
        if queue.idle:
            queue.schedule(1)
            with queue.measuring(endpoint, 1):
                (response,) = endpoint.handle_batch([request])
            return response
        if queue.is_full():
            raise overloaded()
        pending = _PendingRequest(endpoint, request, batch_key, loop.create_future())
        queue.waiting.append(pending)
        return await pending.future

    def _queue_of(self, loop: asyncio.AbstractEventLoop) -> _Queue:
        """Return the queue of `loop`. A host may replace its event loop."""
        if self._queue is None or self._queue.loop is not loop:
            self._queue = _Queue(loop, self._max_queue)
        return self._queue


def _results(batch: list[_PendingRequest]) -> list[Any]:
    """Return the response or error of each request. After an error each request of the batch is answered alone."""
    try:
        return batch[0].endpoint.handle_batch([pending.request for pending in batch])
    except Exception as error:
        if len(batch) == 1:
            return [error]
        return [_results([pending])[0] for pending in batch]


def overloaded() -> HTTPException:
    """Return the error for a request that finds the queue full."""
    message = "expected fewer requests at a time, found a full queue"
    return HTTPException(503, message, {"retry-after": str(RETRY_AFTER_S)})
