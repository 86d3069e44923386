"""Threads in the background of a server."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def background(name: str, run: Callable[[threading.Event], None]) -> Iterator[None]:
    """Call `run(stop)` in a thread. When the context ends, the event `stop` is set, and the thread is waited for."""
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(stop,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
