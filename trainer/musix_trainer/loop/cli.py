"""The trainer's commands of the loop: `musix experiment status`, `musix rollout step` and `musix monitor`."""

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
    with _opened(database) as store:
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
    from musix_runtime.registry import experiments, rollouts
    from musix_trainer.loop import summary
    from musix_trainer.loop.experiment import analyse
    from musix_trainer.loop.rollout import decide

    opened = open_registry(registry)
    rollout = rollouts.read(opened, name)
    if not rollout.goes_on:
        print_line(f"{rollout.id} is {rollout.state}")
        context.exit(NOTHING_TO_DO)
    with _opened(database) as store:
        analysis = analyse(store, experiments.read(opened, name, rollout.experiment))
    decision = decide(rollout, analysis, now_ms())
    if decision.action == "wait":
        print_line(f"{rollout.id} waits: {decision.reason}")
        context.exit(NOTHING_TO_DO)
    change = rollouts.advance if decision.action == "advance" else rollouts.abort
    changed = change(opened, name, now_ms(), decision.reason, summary.as_json(analysis))
    print_line(f"{describe(changed)}: {decision.reason}")


@click.command()
@REGISTRY
@NAME
@FEEDBACK
@AS_JSON
def monitor(registry: Path, name: str, database: str, as_json: bool) -> None:
    """Compare what listeners did in the last 7 days with what they did when the live version was new.

    Shows drift, calibration and figures of NAME in REGISTRY, and stores the report in the database, from which servers
    show it. Alarms are printed; they do not change the exit code. Call it once a day.
    """
    from musix_runtime.registry import experiments
    from musix_trainer.loop import monitoring, report_text

    opened = open_registry(registry)
    engine = opened.open_path(opened.live(name))
    with _opened(database) as store:
        report = monitoring.monitor(store, engine, experiments.read_all(opened, name), now_ms())
        store.add_report(report)
    if as_json:
        print_json(report)
        return
    for line in report_text.lines(report):
        print_line(line)


@contextmanager
def _opened(database: str) -> "Iterator[FeedbackStore]":
    from musix_runtime.feedback.opening import open_store

    store = open_store(database, create=False)
    try:
        yield store
    finally:
        store.close()
