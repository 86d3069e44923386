"""Supervisor of the worker processes: it replaces each worker that ends.

A worker maps the files of its bundle. Truncating such a file kills the process (SIGBUS), and no handler can prevent
that, so even a single worker is a child process. The parent does not import the server: it stays small and forks
without threads. It keeps the sockets open, so connections wait for the next worker.
"""

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic, sleep
from types import FrameType

from musix_runtime.cli.entry import terminating_signals
from musix_runtime.cli.output import print_status
from musix_runtime.errors import InputError, MusixError, WorkerError

MAX_FAILURES = 5
WINDOW_S = 30.0  # a worker that dies sooner after its start counts as a failure
RETRY_S = 4.0  # before a worker that exited is replaced: its bundle may be half copied
PR_SET_PDEATHSIG = 1  # Linux' prctl.h


def supervise(serve: Callable[[], None], count: int) -> None:
    """Call `serve` in `count` child processes until a signal stops them, and replace each process that ends.

    Exits with the exit code of the first worker that exits by itself soon after the start. Raises WorkerError when
    `MAX_FAILURES` workers in a row ended within `WINDOW_S` of their start and no other one keeps running. Without fork
    (Windows) this process is the only worker.
    """
    if hasattr(os, "fork"):
        _Workers(serve).run(count)
    elif count == 1:
        serve()
    else:
        raise InputError(f"workers: expected 1 where processes cannot be forked, found {count}")


def call_in_child(action: Callable[[], None]) -> None:
    """Call `action` in a child process. Exit with the child's exit code unless that is 0."""
    if not hasattr(os, "fork"):
        action()
        return
    child = _fork(action)
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except BaseException:  # such as SystemExit by a signal: the child must not write on while its folder is removed
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    if code:
        sys.exit(code if code > 0 else 128 - code)


def _fork(action: Callable[[], None]) -> int:
    """Start a child process that calls `action` and exits. Return its id. Raises WorkerError if that is impossible."""
    _flush()
    numbers = (*terminating_signals(), signal.SIGINT)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # one that is sent to the child waits until it can end it
    try:
        child = os.fork()
        if not child:
            for number in numbers:
                signal.signal(number, signal.SIG_DFL)
    except OSError as error:
        advice = "raise the limit of processes (ulimit -u, or that of the container), or free memory"
        raise WorkerError(f"worker: expected a new process, found: {error.strerror}; {advice}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if not child:
        code = 1
        try:
            code = _exit_code(action)
        finally:  # in any case, as the callers are the parent's
            _flush()
            os._exit(code)
    return child


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it, or its disk is full
            stream.flush()


def _exit_code(action: Callable[[], None]) -> int:
    """Call `action` in a child process and return its exit code."""
    try:
        os.setpgid(0, 0)  # signals of the terminal reach only the parent, which passes them on
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        action()
        return 0
    except MusixError as error:
        print_status(f"error: {error}", error=True)
        return error.exit_code
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1


@dataclass
class _Workers:
    serve: Callable[[], None]
    starts: dict[int, float] = field(default_factory=dict)  # by process id, on the monotonic clock
    stopping: bool = False
    failures: int = 0
    first_failure: float = -WINDOW_S  # of those in a row
    last_failure: float = -WINDOW_S

    def run(self, count: int) -> None:
        before = [(number, signal.signal(number, self.stop)) for number in (*terminating_signals(), signal.SIGINT)]
        try:
            for _ in range(count):
                if not self.stopping:
                    self.start()
            self.watch()
        except WorkerError:
            self.end(None)
            raise
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    def start(self) -> None:
        """Fork a worker."""
        child = _fork(self.serve)
        self.starts[child] = monotonic()
        if self.stopping:
            os.kill(child, signal.SIGTERM)

    def stop(self, number: int, frame: FrameType | None = None) -> None:
        """Stop the workers: pass SIGINT on, and send SIGTERM for any other signal."""
        self.stopping = True
        number = number if number == signal.SIGINT else signal.SIGTERM
        for child in list(self.starts):
            with suppress(ProcessLookupError):
                os.kill(child, number)

    def watch(self) -> None:
        """Wait for workers to end and start others, until all have stopped."""
        first = set(self.starts)
        while self.starts:
            child, status = os.wait()
            start = self.starts.pop(child, None)
            if self.stopping or start is None:  # a process that this one had started before it became `musix`
                continue
            code, lived = os.waitstatus_to_exitcode(status), monotonic() - start
            if code >= 0 and child in first and lived < WINDOW_S:
                self.end(code)
            reason = f"by itself, with {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
            print_status(f"worker {child} was ended {reason}; another one is started", error=True)
            if lived < WINDOW_S:
                self.count_failure()
            if code >= 0 or self.failures >= MAX_FAILURES:
                sleep(RETRY_S)
            self.replace()

    def replace(self) -> None:
        """Fork a worker in place of one that has ended. While the system forbids it, try again: others may serve."""
        while not self.stopping:
            try:
                self.start()
                break
            except WorkerError as error:
                print_status(f"error: {error}", error=True)
                self.count_failure()
                sleep(RETRY_S)

    def count_failure(self) -> None:
        """Count a failed worker. Raises WorkerError after too many, unless another one keeps running."""
        now = monotonic()
        if now - self.last_failure >= WINDOW_S:
            self.failures, self.first_failure = 0, now
        self.failures += 1
        self.last_failure = now
        if self.failures >= MAX_FAILURES and all(start > self.first_failure for start in self.starts.values()):
            raise WorkerError(
                f"workers: expected processes that keep running, found {self.failures} that ended within "
                f"{WINDOW_S:.0f} s of their start; the lines above say why"
            )

    def end(self, code: int | None) -> None:
        """Stop the workers, wait for them, and exit with `code` unless it is None."""
        self.stop(signal.SIGTERM)
        while self.starts:
            self.starts.pop(os.wait()[0], None)
        if code is not None:
            sys.exit(code)
