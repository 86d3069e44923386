"""A log that repeats a warning at most once a minute, so that an attack cannot fill the disk."""

import logging
from time import monotonic

INTERVAL_S = 60.0


class ThrottledLog:
    """Writes warnings by kind: the first at once, later ones at most every `INTERVAL_S` with their number."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._next: dict[str, float] = {}
        self._pending: dict[str, int] = {}

    def warn(self, kind: str, message: str) -> None:
        """Write `message`, or count it for the next line of its kind."""
        count = self._pending[kind] = self._pending.get(kind, 0) + 1
        now = monotonic()
        if now < self._next.get(kind, 0.0):
            return
        self._next[kind] = now + INTERVAL_S
        self._pending[kind] = 0
        self._logger.warning("%s%s", message, f" ({count:,} times since the last such line)" if count > 1 else "")
