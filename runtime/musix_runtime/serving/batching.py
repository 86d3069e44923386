"""Turns: answers are computed one after another on the event loop; who would wait too long is sent away at once."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException

Answer = Callable[[list[Any]], Awaitable[list[Any]]]  # from questions to their answers
RETRY_AFTER = 1  # second
WINDOW = 0.2  # seconds after which it is judged whether many were sent away
MANY = 0.25  # of those answered
FEW = 4  # may wait then


@dataclass(frozen=True, eq=False)
class _Turn:
    answer: Answer
    question: Any
    kind: object
    most: int
    future: "asyncio.Future[Any]"

    def joins(self, first: "_Turn") -> bool:
        return self.kind is first.kind and self.answer == first.answer and not self.future.done()


@dataclass(eq=False)
class _Queue:
    """The turns before one event loop: those that wait, `limit` at most, and those that are being answered."""

    loop: asyncio.AbstractEventLoop
    limit: int
    waiting: deque[_Turn] = field(default_factory=deque)
    tasks: "set[asyncio.Task[None]]" = field(default_factory=set)
    called: bool = False
    coming: int = 0  # who were let in, and will wait when the loop goes on
    short: bool = False
    since: float = 0.0  # of the two counts that follow, on the loop's clock
    answered: int = 0
    away: int = 0

    @property
    def idle(self) -> bool:
        return not (self.called or self.waiting or self.tasks)

    def full(self) -> bool:
        """Whether one more is sent away. After each window it is judged whether so many were that few may wait."""
        now = self.loop.time()
        if now >= self.since + WINDOW:
            self.short = now < self.since + 2 * WINDOW and self.away > MANY * self.answered
            self.since, self.answered, self.away = now, 0, 0
        if len(self.waiting) + self.coming < (min(FEW, self.limit) if self.short else self.limit):
            return False
        self.away += 1
        return True

    def enter(self) -> bool:
        """Count one more as coming, unless it is sent away."""
        if self.full():
            return False
        self.coming += 1
        if self.coming == 1:
            self.loop.call_soon(self._come)
        return True

    def _come(self) -> None:
        self.coming = 0

    def call(self) -> None:
        """Begin the next turn after a look at the sockets; once, however often it is called for until then."""
        if not self.called:
            self.called = True
            self.loop.call_soon(self._next)

    def _next(self) -> None:
        self.called = False
        while self.waiting and self.waiting[0].future.done():
            self.waiting.popleft()  # who left while waiting
        if self.waiting:
            self.tasks.add(self.loop.create_task(self._answer(self._joined())))

    def _joined(self) -> list[_Turn]:
        first = self.waiting.popleft()
        others = [each for each in self.waiting if each.joins(first)][: first.most - 1]
        for each in others:
            self.waiting.remove(each)
        return [first, *others]

    async def _answer(self, turns: list[_Turn]) -> None:
        self.answered += len(turns)
        try:
            for turn, found in zip(turns, await _found(turns), strict=True):
                if turn.future.done():
                    continue  # who asked has left
                if isinstance(found, Exception):
                    turn.future.set_exception(found)
                else:
                    turn.future.set_result(found)
        finally:
            self.tasks.discard(asyncio.current_task())
            self.call()


class Turns:
    """A queue before the event loop's only thread, first come first served.

    Between two turns the loop looks at its sockets, so that whoever comes in vain is told within a few milliseconds,
    however long the queue is. An idle server answers without any detour. Waiting questions of one kind are answered
    together, when the turn of the first of them comes.

    As many as `limit` may wait. While many are sent away, which takes time from the turns, those who wait would wait
    longer than ever: then only `FEW` may wait, until few are sent away.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: _Queue | None = None

    def full(self) -> bool:
        """Whether as many requests wait as may, so that one more is sent away."""
        return self._before(asyncio.get_running_loop()).full()

    def enter(self) -> bool:
        """Whether one more may come, which will `take` its turn as soon as the loop goes on with what it has read."""
        return self._before(asyncio.get_running_loop()).enter()

    async def take(self, answer: Answer, question: Any, kind: object = None, most: int = 1) -> Any:
        """Answer the question when it is its turn, together with others of its kind (compared by identity) that have
        the same answer, up to `most` of them. Raises HTTPException 503 when as many wait as may."""
        loop = asyncio.get_running_loop()
        queue = self._before(loop)
        if queue.idle:
            queue.call()
            queue.answered += 1
            return (await answer([question]))[0]
        if queue.full():
            raise busy("requests")
        turn = _Turn(answer, question, kind, most, loop.create_future())
        queue.waiting.append(turn)
        return await turn.future

    def _before(self, loop: asyncio.AbstractEventLoop) -> _Queue:
        """The queue of the loop: a host may go on with another one."""
        if self._queue is None or self._queue.loop is not loop:
            self._queue = _Queue(loop, self._limit)
        return self._queue


async def _found(turns: list[_Turn]) -> list[Any]:
    """The answer of every turn, or its error; when they fail together, each gets its own."""
    try:
        return await turns[0].answer([each.question for each in turns])
    except Exception as error:
        if len(turns) == 1:
            return [error]
        return [(await _found([each]))[0] for each in turns]


def busy(what: str) -> HTTPException:
    """The answer to who comes while as many others wait as may."""
    message = f"expected fewer {what} at a time, found as many waiting as may"
    return HTTPException(503, message, {"retry-after": str(RETRY_AFTER)})
