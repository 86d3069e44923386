"""The trainer's commands of the loop: `musix experiment status`, `musix rollout step`, `musix monitor` and
`musix worker`."""

import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from musix_runtime import settings
from musix_runtime.cli.arguments import AS_JSON
from musix_runtime.cli.entry import terminating_signals
from musix_runtime.cli.experiment import NAME
from musix_runtime.cli.output import print_json, print_line
from musix_runtime.cli.registry import REGISTRY, open_registry
from musix_runtime.cli.rollout import describe
from musix_runtime.clock import now_ms
from musix_runtime.errors import InputError, UnknownRolloutError
from musix_trainer.cli import OUT

if TYPE_CHECKING:
    from musix_runtime.feedback.schemas import Job
    from musix_runtime.feedback.store import FeedbackStore
    from musix_trainer.loop.child import Stop

OPTIONS_OF_A_TRAINING = ("--every", "--pause", "--over", "--key", "--trust")  # of `musix loop`, for `musix worker`
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
NOTHING_TO_DO = 5  # exit code
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
RECIPE_FILE = click.option("--recipe", required=True, type=FILE, help="Recipe of the bundle.")
TABLES = click.option("--data", required=True, type=FOLDER, help="Folder of the recipe's tables.")
FEEDBACK = click.option(
    "--feedback",
    "database",
    required=True,
    metavar="URL",
    envvar="MUSIX_FEEDBACK",
    show_envvar=True,  # also in the error when it is missing
    help="Database of the feedback, as of `musix serve --feedback`.",
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
        try:
            done = rollout.step(open_registry(registry), name, store, now_ms())
        except UnknownRolloutError:
            print_line(f"{name} has no rollout")
            context.exit(NOTHING_TO_DO)
    if not done.changed:
        waits = f"waits: {done.reason}" if done.rollout.goes_on else f"is {done.rollout.state}"
        print_line(f"rollout {done.rollout.id} {waits}")
        context.exit(NOTHING_TO_DO)
    print_line(f"{describe(done.rollout)}: {done.reason}")


@click.command()
@REGISTRY
@NAME
@RECIPE_FILE
@TABLES
@FEEDBACK
@OUT
@click.option("--once", is_flag=True, help="End after one job, with the exit code of its training, 5 if none waits.")
@click.argument("options", nargs=-1)
@click.pass_context
def worker(
    context: click.Context,
    registry: Path,
    name: str,
    recipe: Path,
    data: Path,
    database: str,
    out: Path,
    once: bool,
    options: tuple[str, ...],
) -> None:
    """Do the trainings that servers were asked for, one at a time, until a signal stops it.

    Each runs `musix loop` with these arguments, and with OPTIONS of it, such as --key, which follow after --. A
    training that is stopped begins again with the next worker.
    """
    from musix_trainer import recipe as recipes
    from musix_trainer.loop.training_tables import check_recipe
    from musix_trainer.loop.worker import Timing, Worker

    if sys.platform == "win32":
        raise InputError("musix worker: expected a system with groups of processes, found Windows")
    open_registry(registry).history(name)  # raises StoreError: no job of another name can be done
    check_recipe(recipes.read(recipe), name)
    settings.share_feedback(database)
    paths = {"--recipe": recipe, "--data": data, "--out": out}
    arguments = [str(each) for option in paths.items() for each in option]
    loop = ["loop", str(registry), name, *arguments, "--now", *options]
    _check_loop(context.find_root(), loop, options)

    def command(job: "Job") -> list[str]:
        return [sys.argv[0], *loop, "--job", job.id]

    logging.basicConfig(format=LOG_FORMAT, level=logging.INFO)
    with opened(database) as store, _stopping() as stop:
        worker = Worker(store.jobs, name, command, stop, Timing())
        if not once:
            worker.run()
            return
        ending = worker.run_one()
    context.exit(NOTHING_TO_DO if ending is None else ending.code)


def _check_loop(root: click.Context, arguments: list[str], options: Sequence[str]) -> None:
    """Raise UsageError when `musix loop` would not take its arguments, or its `options` are not about a training, and
    InputError for keys: see `check_keys`."""
    name, found, rest = cast("click.Group", root.command).resolve_command(root, arguments)
    loop = cast("click.Command", found)
    *_, given = loop.make_parser(click.Context(loop, root, name)).parse_args(list(options))
    for option in (param.opts[-1] for param in given if isinstance(param, click.Option)):
        if option not in OPTIONS_OF_A_TRAINING:
            raise click.UsageError(f"OPTIONS: expected {', '.join(OPTIONS_OF_A_TRAINING)}, found {option}")
    training = loop.make_context(name, rest, parent=root)
    check_keys(training.params["key"], training.params["trust"])


def check_keys(key: Path | None, trust: Path | None) -> None:
    """Raise InputError when new versions cannot be signed with `key`: that is better found before a training."""
    from musix_runtime.bundle import signature

    if trust and not key:
        raise InputError("--trust: expected --key as well, as new versions must be signed")
    if key:
        signature.sign("", key)


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
    from musix_trainer.loop import monitoring, report_text

    with opened(database) as store:
        report = monitoring.report_of(store, open_registry(registry), name, now_ms())
        store.add_report(report)
    if as_json:
        print_json(report)
        return
    for line in report_text.lines(report):
        print_line(line)


@contextmanager
def _stopping() -> "Iterator[Stop]":
    """Yield what is requested by signals to stop."""
    from musix_trainer.loop.child import Stop

    with Stop() as stop:
        numbers = (*terminating_signals(), signal.SIGINT)
        before = [signal.signal(number, lambda number, frame: stop.request()) for number in numbers]
        try:
            yield stop
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


@contextmanager
def opened(database: str) -> "Iterator[FeedbackStore]":
    """Open the feedback store of a URL, which must exist, for the block. Raises InputError."""
    from musix_runtime.feedback.opening import open_store

    store = open_store(database, create=False)
    try:
        yield store
    finally:
        store.close()
