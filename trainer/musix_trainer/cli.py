"""The trainer's commands: `musix train` and `musix import`."""

from pathlib import Path

import click

RECIPE = click.argument("recipe_path", metavar="RECIPE", type=click.Path(path_type=Path))
DATA = click.option("--data", type=click.Path(path_type=Path), help="Folder of the recipe's tables.")
OUT = click.option(
    "--out", type=click.Path(path_type=Path), default=Path("build"), show_default=True, help="Where to write."
)


@click.command()
@RECIPE
@DATA
@OUT
def train(recipe_path: Path, data: Path | None, out: Path) -> None:
    """Train the five parts of RECIPE into the run folder OUT/runs/NAME-VERSION, in place of an older run."""
    from musix_runtime.folder import check_writable
    from musix_trainer import recipe, run

    recipe_file = recipe.read(recipe_path)
    check_writable(out)
    path = out / "runs" / recipe_file.recipe.label
    run.train(recipe_file, data).save(path)
    click.echo(path)


@click.group(name="import")
def import_() -> None:
    """Bring public data sets to the standard tables."""


@import_.command()
@click.argument("raw", type=click.Path(path_type=Path))
@click.option("--tracks", required=True, type=click.Path(path_type=Path), help="The tracks table, .csv or .parquet.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the two tables; must be free.")
def lastfm(raw: Path, tracks: Path, out: Path) -> None:
    """Derive listening to tracks from the Last.fm tables (HetRec 2011) in folder RAW."""
    from musix_trainer.lastfm import import_lastfm

    for name, value in import_lastfm(raw, tracks, out).items():
        click.echo(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}")
    click.echo(f"{out}: tracks.parquet, listening.parquet")
