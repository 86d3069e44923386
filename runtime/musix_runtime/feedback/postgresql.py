"""Connections to PostgreSQL that do not wait without end for a server that was paused or lost.

Neither a timeout of the server nor one of TCP helps then: the server does not run, and its system still answers.
"""

import time
from collections.abc import Generator
from typing import Any

import psycopg

ANSWER_S = 30.0  # for the answer to a statement, or for a part of it


class ImpatientConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server does not answer for `ANSWER_S`, which raises OperationalError."""

    def wait(self, gen: Generator[Any, Any, Any], *arguments: Any, **options: Any) -> Any:
        """Let psycopg do what a generator describes, which is sent 0 each time that nothing has happened."""
        return super().wait(self._limited(gen), *arguments, **options)

    def _limited(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        end = time.monotonic() + ANSWER_S
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > end:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"no answer within {ANSWER_S:g} s")
                wanted = gen.send(ready)
        except StopIteration as stop:
            return stop.value
