"""The tables of a retraining: those of the recipe, and what the feedback store has learned since."""

import shutil
from pathlib import Path

import msgspec
import polars as pl

from musix_runtime.atomic import new_folder
from musix_runtime.errors import RecipeError
from musix_runtime.feedback.store import FeedbackStore
from musix_trainer.data import impressions, interactions, tables
from musix_trainer.data.tables import Column
from musix_trainer.importers.feedback import read_feedback, without
from musix_trainer.recipe import Recipe, RecipeFile


def check_recipe(recipe_file: RecipeFile, name: str) -> None:
    """Raise RecipeError unless the recipe makes bundles of a name from tables, to which feedback can be added."""
    recipe = recipe_file.recipe
    if recipe.source != "tables":
        raise RecipeError(
            f'{recipe_file.path}: source: expected "tables", to which feedback can be added, found "{recipe.source}"'
        )
    if recipe.name != name:
        raise RecipeError(f"{recipe_file.path}: name: expected {name!r}, found {recipe.name!r}")


def write_training_tables(settings: Recipe, data: Path, store: FeedbackStore, until_ms: int, out: Path) -> None:
    """Write the tables of a recipe into the folder `out`, as a whole: copies of those in `data`, with the events before
    a time beside the listening and, if the recipe has such a table, the feedback.

    Listeners who were forgotten are left out. Raises RecipeError for names of tables that are
    paths, TableError for a table that is wrong, FeedbackError, OutputError.
    """
    names = settings.tables
    for name in filter(None, msgspec.structs.astuple(names)):
        if Path(name).name != name:
            raise RecipeError(f"{settings.name}: tables: expected names of files in the data folder, found {name!r}")
    listening, feedback = read_feedback(store, until_ms)
    forgotten = store.forgotten()
    with new_folder(out, replace=True) as folder:
        for name in (names.tracks, names.playlists, names.moods, names.families):
            if name and (data / name).exists():
                shutil.copyfile(data / name, folder / name)
        _write_merged(data / names.listening, interactions.SCHEMA, listening, forgotten, folder / names.listening)
        if names.feedback:
            _write_merged(data / names.feedback, impressions.SCHEMA, feedback, forgotten, folder / names.feedback)


def _write_merged(source: Path, schema: list[Column], added: pl.DataFrame, forgotten: set[str], path: Path) -> None:
    """Write a table with further rows, without those of listeners who were forgotten."""
    table = tables.read(source)
    tables.check(table, schema, "user_id")
    columns = [column.name for column in schema if column.name in added.columns]
    merged = pl.concat([table.frame, added.select(columns)], how="diagonal_relaxed")
    merged = without(merged, forgotten)
    if path.suffix == ".csv":
        merged.write_csv(path)
    else:
        tables.write(path, merged)
