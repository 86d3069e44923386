"""Supervisor of the worker processes: each is started again when it dies.

A worker maps its bundle. Truncating one of these files kills the process (SIGBUS), and no handler can prevent that, so
even a single worker is a child. The parent does not import the server: it stays small and forks without threads. It
keeps the sockets open, so connections wait for the next worker.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic, sleep
from types import FrameType

from musix_runtime.errors import InputError, WorkerError

MAX_FAILURES = 5
WINDOW_S = 30.0  # a worker that dies sooner after its start counts as a failure
RETRY_S = 4.0  # before a worker that exited is replaced: its bundle may be half copied
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
PR_SET_PDEATHSIG = 1  # Linux' prctl.h


def supervise(serve: Callable[[], None], count: int) -> None:
    """Call `serve` in `count` child processes, and replace each child that dies.

    Returns only in the children, when `serve` does. The parent exits: with 0 after a signal, which it passes on to the
    children; with the code of one of the first workers if that exits by itself. It raises WorkerError when
    `MAX_FAILURES` workers in a row die within `WINDOW_S` of their start. Without fork (Windows) this process is the
    only worker.
    """
    if hasattr(os, "fork"):
        _Workers(serve).run(count)
    elif count == 1:
        serve()
    else:
        raise InputError(f"workers: expected 1 where processes cannot be forked, found {count}")


def call_in_child(action: Callable[[], None]) -> None:
    """Call `action` in a child process and wait for it. Exit with its code unless that is 0."""
    if not hasattr(os, "fork"):
        action()
        return
    child = os.fork()
    if not child:
        _become_child()
        action()
        sys.exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        sys.exit(code if code > 0 else 128 - code)


def _become_child() -> None:
    """Form a process group, so that only the parent gets a terminal's signals, and end when the parent does."""
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class _Workers:
    serve: Callable[[], None]
    starts: dict[int, float] = field(default_factory=dict)  # by process id, on the monotonic clock
    stopping: bool = False
    failures: int = 0
    last_failure: float = -WINDOW_S

    def run(self, count: int) -> None:
        before = [(number, signal.signal(number, self.stop)) for number in STOP_SIGNALS]
        if any(self.start() for _ in range(count)) or self.watch():
            for number, handler in before:  # in a child
                signal.signal(number, handler)
            self.serve()
            return
        sys.exit(0)

    def start(self) -> bool:
        """Fork a worker. Return True in the worker, False in the parent."""
        child = os.fork()
        if not child:
            _become_child()
            return True
        self.starts[child] = monotonic()
        if self.stopping:
            os.kill(child, signal.SIGTERM)
        return False

    def stop(self, number: int, frame: FrameType | None = None) -> None:
        """Pass a signal on to the workers."""
        self.stopping = True
        for child in list(self.starts):
            with suppress(ProcessLookupError):
                os.kill(child, number)

    def watch(self) -> bool:
        """Replace workers that end, until all have stopped. Return True in a new worker, False in the parent."""
        first = set(self.starts)
        while self.starts:
            child, status = os.wait()
            code, lived = os.waitstatus_to_exitcode(status), monotonic() - self.starts.pop(child, 0)
            if self.stopping:
                continue
            if code >= 0 and child in first and lived < WINDOW_S:
                self.end(code)
            reason = f"by itself, with {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
            print(f"worker {child} was ended {reason}; another one is started", file=sys.stderr, flush=True)
            if lived < WINDOW_S:
                self.count_failure()
            if code >= 0:
                sleep(RETRY_S)
            if not self.stopping and self.start():
                return True
        return False

    def count_failure(self) -> None:
        """Count a failed worker. Raises WorkerError after too many."""
        now = monotonic()
        self.failures = 1 if now - self.last_failure >= WINDOW_S else self.failures + 1
        self.last_failure = now
        if self.failures >= MAX_FAILURES:
            self.end(None)
            raise WorkerError(
                f"workers: expected processes that stay, found {self.failures} that ended within {WINDOW_S:.0f} s of "
                "their start; the lines above say why"
            )

    def end(self, code: int | None) -> None:
        """Stop the workers, wait for them, and exit with `code` unless it is None."""
        self.stop(signal.SIGTERM)
        while self.starts:
            self.starts.pop(os.wait()[0], None)
        if code is not None:
            sys.exit(code)
