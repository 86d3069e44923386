"""The exporter's commands: `musix export` and `musix build`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from musix_trainer.cli import DATA, OUT, RECIPE

if TYPE_CHECKING:
    from musix_trainer.run import Run

REPLACE = click.option("--replace", is_flag=True, help="Write over a bundle of the same name and version.")


@click.command()
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@OUT
@REPLACE
def export(run_path: Path, out: Path, replace: bool) -> None:
    """Convert the run folder RUN to the bundle OUT/NAME-VERSION."""
    from musix_trainer.run import Run

    _export(Run.load(run_path), out, replace)


@click.command()
@RECIPE
@DATA
@OUT
@REPLACE
def build(recipe_path: Path, data: Path | None, out: Path, replace: bool) -> None:
    """Train RECIPE, export and verify: leaves the bundle OUT/NAME-VERSION and its run in OUT/runs."""
    from musix_runtime.folder import check_free, check_writable
    from musix_trainer import recipe, run

    recipe_file = recipe.read(recipe_path)
    label = recipe_file.recipe.label
    if replace:
        check_writable(out)
    else:
        check_free(out / label)
    trained = run.train(recipe_file, data)
    trained.save(out / "runs" / label)
    _export(trained, out, replace)


def _export(run: "Run", out: Path, replace: bool) -> None:
    from musix_exporter import pack
    from musix_runtime.cli import print_card

    bundle = pack.export(run, out / run.recipe.label, replace)
    print_card(bundle)
    click.echo(f"\n{bundle.path}\ndigest {bundle.digest}")
