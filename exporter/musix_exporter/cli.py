"""The exporter's commands: `musix export`, `musix build`, `musix rebuild` and `musix loop`."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from musix_runtime.cli.arguments import AS_JSON, BUNDLE, TRUST
from musix_runtime.cli.experiment import NAME
from musix_runtime.cli.output import print_json, print_line
from musix_runtime.cli.registry import REGISTRY, open_registry
from musix_runtime.cli.rollout import duration
from musix_runtime.errors import BusyError
from musix_trainer.cli import DATA, OUT, RECIPE
from musix_trainer.loop.cli import FEEDBACK, NOTHING_TO_DO, RECIPE_FILE, TABLES, check_keys, opened

if TYPE_CHECKING:
    from musix_runtime.bundle.reader import Bundle
    from musix_trainer.loop.loop import Build, Loop, Result
    from musix_trainer.recipe import RecipeFile

REPLACE = click.option("--replace", is_flag=True, help="Replace a bundle of the same name and version.")
REFUSED = 3  # exit code
FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command()
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@OUT
@REPLACE
def export(run_path: Path, out: Path, replace: bool) -> None:
    """Convert the run folder RUN to the bundle OUT/NAME-VERSION. Does not measure the gates of its recipe."""
    from musix_exporter import export
    from musix_exporter.build import check_place
    from musix_runtime.cli.output import print_card
    from musix_trainer.run import Run

    run = Run.load(run_path)
    path = out / run.recipe.label
    check_place(path, replace)
    bundle = export.export(run, path, replace)
    print_card(bundle)
    _print_digest(bundle)


@click.command()
@RECIPE
@DATA
@OUT
@REPLACE
@click.option("--json", "json_path", type=FILE, help="File for the result with all gates, as JSON.")
@click.option("--summary", "summary_path", type=FILE, help="File for the result as Markdown, for a CI job's page.")
def build(
    recipe_path: Path,
    data: Path | None,
    out: Path,
    replace: bool,
    json_path: Path | None,
    summary_path: Path | None,
) -> None:
    """Train RECIPE, export and verify the bundle OUT/NAME-VERSION, and check its gates. Keeps the run in OUT/runs.

    Without any gate, a model that is worse than a simple baseline fails. When a gate fails, no bundle is written; the
    run, and the files of --json and --summary, are.
    """
    from musix_runtime.atomic import check_file, write_file
    from musix_trainer import recipe

    recipe_file = recipe.read(recipe_path)  # before the import of what takes seconds
    for file in (json_path, summary_path):
        if file:
            check_file(file)
    from musix_exporter.build import build
    from musix_exporter.build_report import BuildReport

    def show(report: BuildReport) -> None:
        if json_path:
            write_file(json_path, report.json())
        if summary_path:
            write_file(summary_path, report.markdown().encode())
        for line in report.lines():
            print_line(line)

    _print_digest(build(recipe_file, data, out, show, replace))


@click.command()
@BUNDLE
@DATA
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rebuild(bundle: Path, data: Path | None, as_json: bool) -> None:
    """Build BUNDLE again from its provenance and compare: shows which files differ, and why."""
    from musix_exporter.rebuild import rebuild as rebuild_bundle
    from musix_runtime.models.parts import open_bundle

    report = rebuild_bundle(open_bundle(bundle), data)
    if as_json:
        print_json(report)
    else:
        for line in report.lines():
            print_line(line)
    report.check()


@click.command()
@REGISTRY
@NAME
@RECIPE_FILE
@TABLES
@FEEDBACK
@OUT
@click.option("--now", "requested", is_flag=True, help="Train now, whatever the policy says.")
@click.option("--job", metavar="ID", help="The job that requests it: what was trained for it is not trained again.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--every", default="30d", show_default=True, type=duration, help="Longest time between two trainings.")
@click.option("--pause", default="7d", show_default=True, type=duration, help="Shortest time between two trainings.")
@click.option("--over", default="7d", show_default=True, type=duration, help="Least time of a rollout.")
@click.option("--key", type=click.Path(path_type=Path), help="Private key that signs new bundles.")
@AS_JSON
@TRUST
@click.pass_context
def loop(
    context: click.Context,
    registry: Path,
    name: str,
    recipe: Path,
    data: Path,
    database: str,
    out: Path,
    requested: bool,
    job: str | None,
    dry_run: bool,
    every: int,
    pause: int,
    over: int,
    key: Path | None,
    as_json: bool,
    trust: Path | None,
) -> None:
    """Look once at what listeners do with NAME in REGISTRY, and act: roll back, go on with a rollout, or train the next
    version and start its rollout.

    Call it often, such as every hour. Ends with 5 if there is nothing to do, with 3 if a new version was refused.
    """
    from musix_runtime.atomic import check_writable
    from musix_trainer import recipe as recipes
    from musix_trainer.loop.loop import Loop
    from musix_trainer.loop.policy import Policy

    check_keys(key, trust)
    if not dry_run:
        check_writable(out)
    with opened(database) as store:
        runner = Loop(
            open_registry(registry, trust),
            name,
            store,
            recipes.read(recipe),
            data,
            out,
            _builder(key),
            policy=Policy(every_ms=every, pause_ms=pause),
            rollout_ms=over,
        )
        results: list[Result] = []
        try:
            for result in _results(runner, requested, dry_run, job):
                results.append(result)
                if not as_json:
                    print_line(_line(result))
        finally:
            if as_json and results:  # also what was done before an error
                print_json([asdict(result) for result in results])
    context.exit(0 if dry_run else _exit_code(results))


def _builder(key: Path | None) -> "Build":
    """Return what builds new versions, and signs them with a key."""

    def build_signed(recipe_file: "RecipeFile", tables: Path, folder: Path) -> "Bundle":
        from musix_exporter.build import build  # takes seconds, and mostly there is nothing to build
        from musix_runtime.bundle import signature

        bundle = build(recipe_file, tables, folder, show=lambda report: None)
        if key:
            signature.write(bundle.path, bundle.digest, key)
        return bundle

    return build_signed


def _results(runner: "Loop", requested: bool, dry_run: bool, job: str | None) -> Iterator["Result"]:
    """Look once, and yield the result of each action, while no other loop of the name does. Otherwise there is nothing
    to do; a request waits for it."""
    from musix_trainer.loop import journal
    from musix_trainer.loop.loop import Result
    from musix_trainer.loop.policy import Decision

    if dry_run:
        yield runner.look(requested)
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(journal.sole_loop(runner.registry, runner.name, wait=requested))
        except BusyError as error:
            yield Result(Decision("wait", None, str(error)), None, "nothing")
            return
        yield from runner.run(requested, job)


def _exit_code(results: "list[Result]") -> int:
    """Return the exit code of the last action."""
    outcomes = [result.outcome for result in results if result.outcome != "nothing"]
    return {"done": 0, "refused": REFUSED}.get(outcomes[-1], NOTHING_TO_DO) if outcomes else NOTHING_TO_DO


def _line(result: "Result") -> str:
    decision = result.decision
    preposition = " to" if decision.action == "roll back" else ""
    what = f"{decision.action}{f'{preposition} {result.version}' if result.version else ''}: {decision.reason}"
    return f"{what}; {result.outcome}: {result.found}" if result.found else what


def _print_digest(bundle: "Bundle") -> None:

    for line in ("", bundle.path, f"digest {bundle.digest}"):
        print_line(line)
