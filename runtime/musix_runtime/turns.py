"""Turns: answers are computed one after another on the event loop; who would wait too long is sent away at once."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from starlette.exceptions import HTTPException

T = TypeVar("T")
RETRY_AFTER = 1  # second


class Turns:
    """A queue before the event loop's only thread, first come first served.

    Between two answers the loop looks at its sockets, so that whoever comes in vain is told within a few milliseconds,
    however long the queue is. An idle server answers without any detour.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._full = busy(f"expected at most {limit} requests to wait, found as many")
        self._busy: asyncio.AbstractEventLoop | None = None  # the loop that is computing: a host may start another
        self._waiting: deque[asyncio.Future[None]] = deque()

    def check(self) -> None:
        """Raises HTTPException 503 when as many requests wait as may, so that nothing more is done for this one."""
        if len(self._waiting) >= self.limit and self._busy is asyncio.get_running_loop():
            raise self._full

    async def take(self, answer: Callable[[], T]) -> T:
        """Compute `answer()` when it is its turn. Raises HTTPException 503 when `limit` requests wait already."""
        loop = asyncio.get_running_loop()
        if self._busy is loop:
            await self._wait(loop)
        else:
            self._busy = loop
            self._waiting.clear()
        try:
            return answer()
        finally:
            loop.call_soon(self._next)

    async def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self.check()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.cancelled():
                self._next()  # the turn came, and nobody takes it
            raise

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._busy = None


def busy(message: str) -> HTTPException:
    """The answer to who comes while there is too much to do."""
    return HTTPException(503, message, {"retry-after": str(RETRY_AFTER)})
