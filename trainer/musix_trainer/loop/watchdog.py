"""Watchdog: runs a command, and ends it when its owner has ended or is silent.

    python watchdog.py DEADLINE COMMAND [ARGUMENT ...]

The owner holds the other end of the standard input, and writes there, one a line, later and later deadlines in
milliseconds since 1970. When one passes, or the owner has ended in any way, the command is killed with all processes
of its group, and the watchdog ends by SIGALRM. Else it ends with the command: with its exit code, or 128 and the number
of the signal that ended it. It is a program of its own, as it has to live longer than its owner, and imports only the
standard library, so that it starts within milliseconds.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

PR_SET_PDEATHSIG = 1  # Linux' prctl.h
CLOCK_S = 1.0  # between two looks at the clock, which can be set
NOT_FOUND = 127  # exit code, as of a shell
PIPE_BYTES = 2**16


def run(deadline_ms: int, command: list[str]) -> int:
    """Run a command until it ends, the deadline passes or standard input ends. Return the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _ignore)  # the owner decides; the command has the default handlers again
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=_end_with_parent())
    except OSError as error:
        print(f"error: {command[0]}: expected a program, found: {error.strerror}", file=sys.stderr)
        return NOT_FOUND
    expired = threading.Event()
    threading.Thread(target=_guard, args=(child.pid, deadline_ms, expired), daemon=True).start()
    code = child.wait()
    _kill(child.pid)  # what the command has left behind
    if expired.is_set():
        signal.raise_signal(signal.SIGALRM)
    return code if code >= 0 else 128 - code


def _ignore(number: int, frame: object) -> None:
    pass


def _guard(group: int, deadline_ms: int, expired: threading.Event) -> None:
    """Wait until the deadline has passed or standard input has ended, then kill the group."""
    while (left_ms := deadline_ms - time.time_ns() // 1_000_000) > 0:
        readable, _, _ = select.select([sys.stdin.fileno()], [], [], min(left_ms / 1000, CLOCK_S))
        if readable:
            lines = os.read(sys.stdin.fileno(), PIPE_BYTES)
            if not lines:
                break
            deadline_ms = int(lines.split()[-1])
    expired.set()
    _kill(group)


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _end_with_parent() -> Callable[[], object] | None:
    """Return a function that makes Linux kill the calling process when its parent ends, None elsewhere."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), sys.argv[2:]))
