"""Groups: what several threads want to write at the same time is written by one of them, in one transaction."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from musix_runtime.errors import FeedbackError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(eq=False)
class _Request(Generic[T, R]):
    """The items of one thread, and their results or the error once they were written."""

    items: Sequence[T]
    results: list[R] = field(default_factory=list)
    error: Exception | None = None
    done: bool = False


class GroupedWriter(Generic[T, R]):
    """Calls `write(items)`, which returns a result for each item, for one group after another.

    A commit takes as long for many rows as for few. While a group is written, the items that other threads bring wait
    for the next one, which has at most `limit` items, or those of one thread. A FeedbackError of a group is that of all
    that wait as well: they have waited long enough for a database that does not answer.
    """

    def __init__(self, write: Callable[[list[T]], list[R]], limit: int) -> None:
        self._write = write
        self._limit = limit
        self._waiting: deque[_Request[T, R]] = deque()
        self._writing = threading.Lock()

    def add(self, items: Sequence[T]) -> list[R]:
        """Write items, and return their results, in order. Raises what `write` raised for them."""
        request: _Request[T, R] = _Request(items)
        self._waiting.append(request)
        with self._writing:
            while not request.done:
                self._write_group()
        if request.error is not None:
            raise request.error
        return request.results

    def _write_group(self) -> None:
        """Write the requests that have waited longest. Called by the thread that holds the lock."""
        group = [self._waiting.popleft()]
        while self._waiting and sum(len(each.items) for each in (*group, self._waiting[0])) <= self._limit:
            group.append(self._waiting.popleft())
        try:
            results = iter(self._write([item for request in group for item in request.items]))
            for request in group:
                request.results = [next(results) for _ in request.items]
        except Exception as error:  # of any kind, for the thread of each request
            if isinstance(error, FeedbackError):
                group += [self._waiting.popleft() for _ in range(len(self._waiting))]
            for request in group:
                request.error = error
        finally:
            for request in group:
                request.done = True
