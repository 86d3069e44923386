"""Experiment benchmark: the time to analyse an experiment with a million simulated events in an SQLite database."""

import tempfile
import time
from pathlib import Path

import click

from musix_runtime.feedback.events import Event
from musix_runtime.feedback.exposures import Exposure
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.registry.experiments import Experiment
from musix_trainer.loop import summary
from musix_trainer.loop.experiment import analyse
from perf.listeners import STARTED, simulate

EFFECT = -0.02
BATCH = 1000


@click.command()
@click.option("--events", default=1_000_000, show_default=True, help="Number of events.")
@click.option("--listeners", default=10_000, show_default=True, help="Number of listeners.")
def main(events: int, listeners: int) -> None:
    """Print the analysis of a simulated experiment, and how long it took."""
    experiment = Experiment(
        name="simulated",
        number=1,
        control="1.0.0",
        treatment="1.1.0",
        share=0.5,
        listeners=listeners,
        metric="skip_rate",
        salt="simulated/1",
        started_ms=1_750_000_000_000,
    )
    with tempfile.TemporaryDirectory() as folder:
        store = FeedbackStore.open(f"sqlite:///{Path(folder) / 'feedback.db'}")
        shown: list[Exposure] = []
        done: list[Event] = []
        for lists, plays in simulate(experiment, listeners, events // (2 * STARTED * listeners), EFFECT):
            shown += lists
            done += plays
        done.sort(key=lambda event: event.occurred_ms)  # as a service stores them
        for first in range(0, len(done), BATCH):
            store.add_events(done[first : first + BATCH])
        store.add_exposures(sorted(shown, key=lambda exposure: exposure.time_ms))
        start, cpu = time.perf_counter(), time.process_time()
        analysis = analyse(store, experiment)
        took = f"{time.perf_counter() - start:.1f} s, {time.process_time() - cpu:.1f} s of processor time"
        store.close()
    for line in summary.lines(analysis):
        click.echo(line)
    click.echo(f"{len(done):,} simulated events, planted effect {100 * EFFECT:g} points: {took}")


if __name__ == "__main__":
    main()
