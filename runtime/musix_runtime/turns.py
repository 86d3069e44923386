"""Turns: answers are computed one after another on the event loop; who would wait too long is sent away at once."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException

Answer = Callable[[list[Any]], list[Any]]  # from questions to their answers
RETRY_AFTER = 1  # second


@dataclass(frozen=True, eq=False)
class _Turn:
    answer: Answer
    question: Any
    kind: object
    most: int
    future: "asyncio.Future[Any]"

    def joins(self, first: "_Turn") -> bool:
        return self.kind is first.kind and self.answer == first.answer and not self.future.done()


class Turns:
    """A queue before the event loop's only thread, first come first served.

    Between two turns the loop looks at its sockets, so that whoever comes in vain is told within a few milliseconds,
    however long the queue is. An idle server answers without any detour. Waiting questions of one kind are answered
    together, when the turn of the first of them comes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._full = busy(f"expected at most {limit} requests to wait, found as many")
        self._busy: asyncio.AbstractEventLoop | None = None  # the loop that is computing: a host may start another
        self._waiting: deque[_Turn] = deque()

    def check(self) -> None:
        """Raises HTTPException 503 when as many requests wait as may, so that nothing more is done for this one."""
        if len(self._waiting) >= self.limit and self._busy is asyncio.get_running_loop():
            raise self._full

    async def take(self, answer: Answer, question: Any, kind: object = None, most: int = 1) -> Any:
        """Answer the question when it is its turn, together with others of its kind (compared by identity) that have
        the same answer, up to `most` of them. Raises HTTPException 503 when `limit` requests wait already."""
        loop = asyncio.get_running_loop()
        if self._busy is not loop:
            self._busy = loop
            self._waiting.clear()
            loop.call_soon(self._next)
            return answer([question])[0]
        self.check()
        turn = _Turn(answer, question, kind, most, loop.create_future())
        self._waiting.append(turn)
        return await turn.future

    def _next(self) -> None:
        while self._waiting and self._waiting[0].future.done():
            self._waiting.popleft()  # who left while waiting
        if not self._waiting or self._busy is None:
            self._busy = None
            return
        self._busy.call_soon(self._next)
        _settle(self._joined())

    def _joined(self) -> list[_Turn]:
        first = self._waiting.popleft()
        joined = [first]
        if first.most > 1:
            joined += [each for each in self._waiting if each.joins(first)][: first.most - 1]
            self._waiting = deque(each for each in self._waiting if each not in joined)
        return joined


def _settle(turns: list[_Turn]) -> None:
    """Give every turn its answer or its error; when they fail together, each gets its own."""
    try:
        answers = turns[0].answer([each.question for each in turns])
    except Exception as error:
        if len(turns) == 1:
            turns[0].future.set_exception(error)
            return
        for each in turns:
            _settle([each])
    else:
        for each, found in zip(turns, answers, strict=True):
            each.future.set_result(found)


def busy(message: str) -> HTTPException:
    """The answer to who comes while there is too much to do."""
    return HTTPException(503, message, {"retry-after": str(RETRY_AFTER)})
