"""Benchmark on published interactions (HetRec 2011, artists): trains collab alone, without a catalogue, so that its
metrics compare with published ones."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import polars as pl

from musix_runtime.atomic import new_folder
from musix_runtime.bundle.manifest import Provenance
from musix_runtime.errors import InputError, TableError
from musix_trainer import pipeline, progress, recipe
from musix_trainer.curves import Point
from musix_trainer.data import split, tables
from musix_trainer.data.interactions import Interactions
from musix_trainer.data.tables import Column, Table
from musix_trainer.importers.lastfm import PLAYS
from musix_trainer.models import collab
from musix_trainer.recipe import RecipeFile
from musix_trainer.run import check_recipe

TAGS = [Column("userID", "text"), Column("artistID", "text"), Column("timestamp", "number")]  # milliseconds since 1970
LASTFM_BEGAN_S = 1_009_843_200  # 2002-01-01; the table has a few times before it


@dataclass(frozen=True)
class Benchmark:
    """The result of training a recipe of source "lastfm": the interactions after their k-core, and the collab part."""

    recipe_file: RecipeFile
    interactions: Interactions
    collab: collab.CollabModel
    quality: dict[str, Any]
    provenance: Provenance
    points: ClassVar[tuple[Point, ...]] = ()  # no learning curves: only the test part is held out

    def save(self, path: Path) -> None:
        """Write the run into `path` atomically, and replace an older run."""
        with new_folder(path, replace=True) as target:
            (target / "recipe.toml").write_bytes(self.recipe_file.text)
            self.interactions.save(target / "listening")
            self.collab.save(target / "collab")
            card = {"quality": self.quality, "provenance": self.provenance}
            (target / "run.json").write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2))

    @classmethod
    def load(cls, path: Path) -> "Benchmark":
        """Read a run that `save` wrote. Raises InputError when `path` is not one."""
        try:
            card = json.loads((path / "run.json").read_bytes())
            recipe_file = recipe.read(path / "recipe.toml")
            return cls(
                recipe_file,
                Interactions.load(path / "listening"),
                collab.CollabModel.load(path / "collab"),
                card["quality"],
                check_recipe(recipe_file, msgspec.convert(card["provenance"], Provenance)),
            )
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, msgspec.ValidationError) as error:
            raise InputError(f"{path}: expected a complete run folder of this version, found: {error}") from error


def read(settings: recipe.Recipe, data: Path | None) -> Interactions:
    """Return the interactions, read, checked and reduced to their k-core."""
    return k_core(source(settings, data), settings.benchmark.core, settings.split.before_s)


def source(settings: recipe.Recipe, data: Path | None) -> Table:
    """Return the checked table of plays of artists, or of the time at which a listener first tagged an artist."""
    if data is None:
        raise InputError(f"{settings.name}: this recipe reads a table: pass its folder with --data")
    table = tables.read(data / settings.tables.listening)
    if "timestamp" in table.frame.columns:
        tables.check(table, TAGS, "userID")
        table.keep(pl.col("timestamp") >= LASTFM_BEGAN_S * 1000, "time before Last.fm began")
        first = pl.col("timestamp").min().cast(pl.Int64) // 1000
        table.frame = table.frame.group_by("userID", "artistID").agg(timestamp=first).with_columns(weight=pl.lit(1.0))
        return table
    if settings.split.before is not None:
        raise TableError(f"{table.name}: expected a column timestamp, as the recipe splits by time, found none")
    tables.check(table, PLAYS, "userID")
    table.keep(pl.col("weight") > 0, "no plays")
    table.frame = table.frame.with_columns(timestamp=pl.lit(0, pl.Int64))
    return table


def k_core(table: Table, core: int, before: int | None = None) -> Interactions:
    """Drop listeners and artists with fewer than `core` pairs until none is left, and return the other pairs.

    With a time `before` (seconds since 1970), only pairs before it count. `row` is the number of the artist in the
    order of ids. Raises TableError when no pair is left.
    """
    pairs_that_count = pl.len() if before is None else (pl.col("timestamp") < before).sum()
    while True:
        height = table.frame.height
        for column in ("userID", "artistID"):
            table.keep(pairs_that_count.over(column) >= core, f"not in the {core}-core", f"are not in the {core}-core")
        if table.frame.height == height:
            break
    pairs = table.frame.sort("userID", "artistID")
    names = pairs["userID"].unique().sort().to_list()
    table.notes |= {"listeners": len(names), "artists": pairs["artistID"].n_unique(), "pairs": pairs.height}
    return Interactions(
        names,
        (pairs["userID"].rank("dense").cast(pl.Int64) - 1).to_numpy(),
        (pairs["artistID"].rank("dense").cast(pl.Int64) - 1).to_numpy(),
        pairs["weight"].cast(pl.Float64).to_numpy(),
        pairs["timestamp"].to_numpy(),
    )


def train(recipe_file: RecipeFile, data: Path | None) -> Benchmark:
    """Train collab on all but the held-out pairs. Raises InputError without `data`, TableError for a wrong table."""
    settings = recipe_file.recipe
    table = source(settings, data)
    interactions = k_core(table, settings.benchmark.core, settings.split.before_s)
    progress.say(
        f"listening: {table.rows:,} rows; " + ", ".join(f"{key}: {note:,}" for key, note in table.notes.items())
    )
    parts = split.split_interactions(interactions, [], settings.split, settings.seed)
    with pipeline.deterministic():
        model = collab.train(interactions.select(parts != split.TEST), settings.collab, settings.seed)
    card = {"collab": collab.measure(model, interactions.select(parts == split.TEST))}
    return Benchmark(recipe_file, interactions, model, card, pipeline.provenance(recipe_file, {"listening": table}))
