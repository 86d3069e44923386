"""The exporter's commands: `musix export`, `musix build` and `musix rebuild`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from musix_trainer.cli import DATA, OUT, RECIPE

if TYPE_CHECKING:
    from musix_runtime.bundle.reader import Bundle

REPLACE = click.option("--replace", is_flag=True, help="Replace a bundle of the same name and version.")
FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command()
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@OUT
@REPLACE
def export(run_path: Path, out: Path, replace: bool) -> None:
    """Convert the run folder RUN to the bundle OUT/NAME-VERSION. Does not measure the gates of its recipe."""
    from musix_exporter import export
    from musix_runtime.cli.output import print_card
    from musix_trainer.run import Run

    run = Run.load(run_path)
    path = out / run.recipe.label
    _check_place(path, replace)
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
    from musix_exporter import export, gates
    from musix_exporter.build_report import BuildReport
    from musix_runtime.atomic import check_writable, sole_writer, write_file
    from musix_runtime.cli.output import print_line
    from musix_trainer import pipeline, recipe, run, tracking
    from musix_trainer.models.parts import floors

    recipe_file = recipe.read(recipe_path)
    pipeline.check_gates(recipe_file)
    path = out / recipe_file.recipe.label
    run_path = out / "runs" / path.name
    _check_place(path, replace)
    if not replace:
        run.check_unevaluated(run_path)
    for file in (json_path, summary_path):
        if file:
            check_writable(file.parent)
    tracking.check(recipe_file)

    def check(bundle: "Bundle") -> None:
        measured = [
            *gates.floors(bundle.manifest, floors()),
            *gates.measure(bundle, recipe_file.recipe.gates),
        ]
        report = BuildReport.of(bundle, measured, path)
        if json_path:
            write_file(json_path, report.json())
        if summary_path:
            write_file(summary_path, report.markdown().encode())
        for line in report.lines():
            print_line(line)
        gates.check(measured, path.name, run_path)

    with sole_writer(path.with_name(f"{path.name}.build")):
        trained = pipeline.train(recipe_file, data)
        trained.save(run_path)
        tracking.log(run_path, recipe_file, trained.quality, trained.points)
        bundle = export.export(trained, path, replace, check)
        tracking.log(run_path, recipe_file, {}, digest=bundle.digest)
        _print_digest(bundle)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@DATA
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rebuild(bundle: Path, data: Path | None, as_json: bool) -> None:
    """Build BUNDLE again from its provenance and compare: shows which files differ, and why."""
    from musix_exporter.rebuild import rebuild as rebuild_bundle
    from musix_runtime.cli.output import print_json, print_line
    from musix_runtime.models.parts import open_bundle

    report = rebuild_bundle(open_bundle(bundle), data)
    if as_json:
        print_json(report)
    else:
        for line in report.lines():
            print_line(line)
    report.check()


def _check_place(path: Path, replace: bool) -> None:
    from musix_runtime.atomic import check_free, check_writable

    if replace:
        check_writable(path.parent)
    else:
        check_free(path, "use --replace to replace it, or --out for another folder")


def _print_digest(bundle: "Bundle") -> None:
    from musix_runtime.cli.output import print_line

    for line in ("", bundle.path, f"digest {bundle.digest}"):
        print_line(line)
