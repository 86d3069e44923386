"""Supervisor of several worker processes: uvicorn's, which gives up when workers cannot start."""

from socket import socket
from time import monotonic

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from musix_runtime.errors import WorkerError

MAX_FAILURES = 5
WINDOW_S = 30.0  # a worker that dies sooner than this after its start failed, and so did one after the other


class Supervisor(Multiprocess):
    """Starts the workers, and another one for each that dies.

    When `MAX_FAILURES` workers die within `WINDOW_S` of their start, each within `WINDOW_S` of the one before, no other
    is started: those that live finish what they took, and `run` raises WorkerError.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket]) -> None:
        super().__init__(config, sockets)
        self._starts: dict[Process, float] = {}
        self._failures = 0
        self._last_failure = -WINDOW_S

    def run(self) -> None:
        """Supervise until told to stop. Raises WorkerError when workers cannot start."""
        super().run()
        if self._failures >= MAX_FAILURES:
            raise WorkerError(
                f"workers: expected processes that stay, found {self._failures} that ended within "
                f"{WINDOW_S:.0f} s of their start; the lines above say why"
            )

    def keep_subprocess_alive(self) -> None:
        """Count the workers that died, and replace them unless too many failed."""
        now = monotonic()
        self._starts = {each: self._starts.get(each, now) for each in self.processes}
        for process, start in self._starts.items():
            if not process.process.is_alive() and (now - start < WINDOW_S or process.exitcode == STARTUP_FAILURE):
                self._count_failure(now)
        if self._failures >= MAX_FAILURES:
            self.should_exit.set()
        else:
            super().keep_subprocess_alive()

    def _count_failure(self, now: float) -> None:
        if now - self._last_failure >= WINDOW_S:
            self._failures = 0
        self._failures += 1
        self._last_failure = now
