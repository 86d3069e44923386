"""The exporter's commands: `musix export`, `musix build` and `musix rebuild`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from musix_trainer.cli import DATA, OUT, RECIPE

if TYPE_CHECKING:
    from musix_runtime.bundle.reader import Bundle

REPLACE = click.option("--replace", is_flag=True, help="Write over a bundle of the same name and version.")
FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command()
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@OUT
@REPLACE
def export(run_path: Path, out: Path, replace: bool) -> None:
    """Convert the run folder RUN to the bundle OUT/NAME-VERSION, whatever its recipe's gates say."""
    from musix_exporter import export
    from musix_runtime.cli.main import print_card
    from musix_trainer.run import Run

    run = Run.load(run_path)
    bundle = export.export(run, out / run.recipe.label, replace)
    print_card(bundle)
    _tell(bundle)


@click.command()
@RECIPE
@DATA
@OUT
@REPLACE
@click.option("--json", "json_path", type=FILE, help="File for the result as JSON, gates and all.")
@click.option("--summary", "summary_path", type=FILE, help="File for the result as Markdown, for a CI job's page.")
def build(
    recipe_path: Path,
    data: Path | None,
    out: Path,
    replace: bool,
    json_path: Path | None,
    summary_path: Path | None,
) -> None:
    """Train RECIPE, export, verify and hold against its gates: leaves the bundle OUT/NAME-VERSION, its run in OUT/runs.

    When a gate fails, both files are written all the same, the run stays, and no bundle is left.
    """
    from musix_exporter import export, gates
    from musix_exporter.build_report import Result
    from musix_runtime.atomic import check_free, check_writable, sole_writer, write_file
    from musix_runtime.cli.main import print_card
    from musix_trainer import recipe, run

    recipe_file = recipe.read(recipe_path)
    run.check_gates(recipe_file)
    path = out / recipe_file.recipe.label
    run_path = out / "runs" / path.name
    if replace:
        check_writable(out)
    else:
        check_free(path)
    for each in (json_path, summary_path):
        if each:
            check_writable(each.parent)

    def check(bundle: "Bundle") -> None:
        measured = gates.measure(bundle, recipe_file.recipe.gates)
        result = Result.of(bundle, measured, path)
        if json_path:
            write_file(json_path, result.json())
        if summary_path:
            write_file(summary_path, result.markdown().encode())
        print_card(bundle)
        click.echo(result.table())
        gates.check(measured, path.name, run_path)

    with sole_writer(path.with_name(f"{path.name}.build")):
        trained = run.train(recipe_file, data)
        trained.save(run_path)
        _tell(export.export(trained, path, replace, check))


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@DATA
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rebuild(bundle: Path, data: Path | None, as_json: bool) -> None:
    """Build BUNDLE again from its provenance, and say whether it is equal, or which files differ and why."""
    from musix_exporter.rebuild import rebuild as rebuild_bundle
    from musix_runtime.models.parts import open_bundle

    found = rebuild_bundle(open_bundle(bundle), data)
    click.echo(found.json() if as_json else found.text())
    found.check()


def _tell(bundle: "Bundle") -> None:
    click.echo(f"\n{bundle.path}\ndigest {bundle.digest}")
