"""Entry point of the command `musix`: it handles signals before it imports anything that takes long.

A signal ends the command with 128 and its number as the exit code, as of a shell: 130 for CTRL+C, 143 for SIGTERM.
While the command runs, a signal raises KeyboardInterrupt, so that files that are half written are removed; before and
after, it ends the process at once.
"""

from __future__ import annotations

import gc
import os
import signal

TYPE_CHECKING = False  # that of `typing`, whose import takes as long as all others here
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import TypeVar

    T = TypeVar("T")


# Python looks for garbage after 700 new objects: most of what a command makes, above all the functions and classes that
# it imports, stays until its end. Each search took up to a fifth of a second, and all of them 4 to 8% of a command.
NEW_OBJECTS = 50_000


class Stopped(BaseException):
    """A signal has stopped the command."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


class _Handler:
    """The handler of the signals that stop the command."""

    raises = False
    received: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.raises:
            os._exit(128 + number)
        self.received = number
        raise KeyboardInterrupt


_handler = _Handler()


def main() -> None:
    """Run the command and exit."""
    for number in (*terminating_signals(), signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:  # as of a job in the background
            signal.signal(number, _handler)
    gc.set_threshold(NEW_OBJECTS)
    from musix_runtime.cli.main import main as run

    run()


def stoppable(action: Callable[[], T]) -> T:
    """Return what `action` returns. Raises Stopped when a signal came, whatever error that has become on its way: the
    import of a library may make an ImportError of it."""
    try:
        _handler.raises = True
        result = action()
        _handler.raises = False
    except BaseException as error:
        _handler.raises = False
        if _handler.received is None:
            raise
        raise Stopped(_handler.received) from error
    return result


def terminating_signals() -> list[signal.Signals]:
    """Return SIGTERM and, unless `nohup` ignores it, SIGHUP, which a closed terminal sends."""
    hangup: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is None or signal.getsignal(hangup) == signal.SIG_IGN:
        return [signal.SIGTERM]
    return [signal.SIGTERM, hangup]
