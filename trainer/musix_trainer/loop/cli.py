"""The trainer's commands of the loop: `musix experiment status` and `musix rollout step`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from musix_runtime.cli.arguments import AS_JSON
from musix_runtime.cli.experiment import NAME
from musix_runtime.cli.output import print_json, print_line
from musix_runtime.cli.registry import REGISTRY, open_registry
from musix_runtime.cli.rollout import describe
from musix_runtime.clock import now_ms

if TYPE_CHECKING:
    from musix_runtime.feedback.store import FeedbackStore

NOTHING_TO_DO = 5  # exit code
FEEDBACK = click.option(
    "--feedback", "database", required=True, help="Database of the feedback, as of `musix serve --feedback`."
)


@click.command()
@REGISTRY
@NAME
@click.argument("number", required=False, type=int)
@FEEDBACK
@AS_JSON
def status(registry: Path, name: str, number: int | None, database: str, as_json: bool) -> None:
    """Show what an experiment has found: metrics with intervals, guardrails and the verdict.

    Takes the experiment NUMBER of NAME in REGISTRY, by default the latest. You may look as often as you like.
    """
    from musix_runtime.registry import experiments
    from musix_trainer.loop import summary
    from musix_trainer.loop.experiment import analyse

    experiment = experiments.read(open_registry(registry), name, number)
    with opened(database) as store:
        analysis = analyse(store, experiment)
    if as_json:
        print_json(summary.as_json(analysis))
        return
    for line in summary.lines(analysis):
        print_line(line)


@click.command()
@REGISTRY
@NAME
@FEEDBACK
@click.pass_context
def step(context: click.Context, registry: Path, name: str, database: str) -> None:
    """Decide about the rollout of NAME in REGISTRY by the feedback: begin the next stage, abort it, or wait.

    Ends with 5 if there is nothing to do. Call it often, such as every five minutes.
    """
    from musix_trainer.loop import rollout

    with opened(database) as store:
        done = rollout.step(open_registry(registry), name, store, now_ms())
    if not done.changed:
        waits = f"waits: {done.reason}" if done.rollout.goes_on else f"is {done.rollout.state}"
        print_line(f"{done.rollout.id} {waits}")
        context.exit(NOTHING_TO_DO)
    print_line(f"{describe(done.rollout)}: {done.reason}")


@contextmanager
def opened(database: str) -> "Iterator[FeedbackStore]":
    """Open the feedback store of a URL, which must exist, for the block. Raises InputError."""
    from musix_runtime.feedback.opening import open_store

    store = open_store(database, create=False)
    try:
        yield store
    finally:
        store.close()
