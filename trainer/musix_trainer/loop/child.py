"""A command that runs under a watchdog, the end of its output, and a request to stop."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, cast

from musix_runtime.errors import shorten
from musix_runtime.feedback.jobs import Output
from musix_trainer.loop import watchdog

LOG_BYTES = 64 * 2**10
READ_BYTES = 64 * 2**10
PROGRESS_LENGTH = 200  # characters
REPLACEMENT = "\ufffd"


class Stop:
    """A request to stop. A signal handler may make it, and it can be waited for together with other files."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def __enter__(self) -> "Stop":
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._reader)
        os.close(self._writer)

    def request(self) -> None:
        """Make the request."""
        os.write(self._writer, b"\n")

    def wait(self, seconds: float) -> bool:
        """Wait for the request, at most some seconds. Return whether it was made."""
        readable, _, _ = select.select([self], [], [], seconds)
        return bool(readable)

    def fileno(self) -> int:
        """Return the descriptor that can be read once the request was made."""
        return self._reader


class Child:
    """A running command. It ends when its deadline passes, when this process ends in any way, and with the context.

    Deadlines are in ms since 1970.
    """

    def __init__(self, command: Sequence[str], deadline_ms: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", watchdog.__file__, str(deadline_ms), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            process_group=0,  # signals of the terminal reach only the worker
        )
        self._deadlines = cast(IO[bytes], self._process.stdin)
        self._output = cast(IO[bytes], self._process.stdout)
        self._log = bytearray()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *error: object) -> None:
        self._deadlines.close()  # upon which the watchdog ends the command and itself
        self._process.wait()
        self._output.close()

    def extend(self, deadline_ms: int) -> None:
        """Set a later deadline."""
        with suppress(BrokenPipeError):  # the command has ended
            self._deadlines.write(b"%d\n" % deadline_ms)

    def wait(self, seconds: float, stop: Stop) -> int | None:
        """Read the output until the command ends, some seconds are over, or the request to stop was made.

        Return the exit code if the command has ended: above 0 also for a signal, below 0 if the watchdog ended it.
        """
        end = time.monotonic() + seconds
        while not stop.wait(0) and (left := end - time.monotonic()) > 0:
            readable, _, _ = select.select([self._output.fileno(), stop.fileno()], [], [], left)
            if self._output.fileno() in readable and not self._read():
                return self._process.wait()
        code = self._process.poll()  # a process that the command left behind may keep the output open
        if code is not None and select.select([self._output], [], [], 0)[0]:
            self._read()  # as much as a pipe holds
        return code

    def _read(self) -> bool:
        """Read some output. Return False at its end."""
        part = os.read(self._output.fileno(), READ_BYTES)
        self._log += part
        del self._log[:-LOG_BYTES]
        return bool(part)

    @property
    def output(self) -> Output:
        """What the command has printed so far."""
        log = self._log.decode(errors="replace").replace("\0", REPLACEMENT)
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        return Output(shorten(lines[-1], PROGRESS_LENGTH) if lines else "", log)
