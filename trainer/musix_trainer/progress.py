"""Progress of long tasks on standard error: a bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterator

import click


def say(text: str) -> None:
    """Print one line."""
    click.echo(text, err=True)


def steps(label: str, count: int) -> Iterator[int]:
    """Iterate over 0..count-1 and show the progress."""
    if sys.stderr.isatty():
        with click.progressbar(range(count), label=f"{label:<28}", file=sys.stderr) as bar:
            yield from bar
        return
    start = time.monotonic()
    for step in range(count):
        yield step
        if step + 1 == count or (step + 1) % max(count // 4, 1) == 0:
            say(f"{label}: {step + 1}/{count}, {time.monotonic() - start:.0f} s")
