"""Benchmark: listening to artists, as published in HetRec 2011, without any catalogue: collab alone learns from it, so
that its figures compare with published ones."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from musix_runtime.atomic import new_folder
from musix_runtime.bundle.manifest import Provenance
from musix_runtime.errors import InputError
from musix_trainer import progress, recipe, run
from musix_trainer.data import split, tables
from musix_trainer.data.interactions import Interactions
from musix_trainer.data.tables import Table
from musix_trainer.importers.lastfm import PLAYS
from musix_trainer.models import collab
from musix_trainer.recipe import RecipeFile


@dataclass(frozen=True)
class Benchmark:
    """What a recipe of source "lastfm" gave: the listening after its k-core, and the collab part."""

    recipe_file: RecipeFile
    interactions: Interactions
    collab: collab.CollabModel
    quality: dict[str, Any]
    provenance: Provenance

    def save(self, path: Path) -> None:
        """Write the run into `path`, in place of what was there; whole or not at all."""
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
                run.check_recipe(recipe_file, msgspec.convert(card["provenance"], Provenance)),
            )
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, msgspec.ValidationError) as error:
            raise InputError(f"{path}: expected a whole run folder of this version, found: {error}") from error


def read(settings: recipe.Recipe, data: Path | None) -> Interactions:
    """The listening, read, checked and brought to its k-core."""
    return k_core(source(settings, data), settings.benchmark.core)


def source(settings: recipe.Recipe, data: Path | None) -> Table:
    """The table of listening to artists, checked."""
    if data is None:
        raise InputError(f"{settings.name}: this recipe learns from a table: name its folder with --data")
    found = tables.read(data / settings.tables.listening)
    tables.check(found, PLAYS, "userID")
    found.keep(pl.col("weight") > 0, "no plays")
    return found


def k_core(found: Table, core: int) -> Interactions:
    """The pairs of which listener and artist have at least `core` others each, found by dropping until none is left to
    drop. `row` numbers the artists in the order of their ids. Raises TableError when nothing is left."""
    while True:
        before = found.frame.height
        for column in ("userID", "artistID"):
            found.keep(pl.len().over(column) >= core, f"not in the {core}-core")
        if found.frame.height == before:
            break
    pairs = found.frame.sort("userID", "artistID")
    names = pairs["userID"].unique().sort().to_list()
    found.notes |= {"listeners": len(names), "artists": pairs["artistID"].n_unique(), "pairs": pairs.height}
    nothing = np.zeros(pairs.height, np.int64)
    return Interactions(
        names,
        (pairs["userID"].rank("dense").cast(pl.Int64) - 1).to_numpy(),
        (pairs["artistID"].rank("dense").cast(pl.Int64) - 1).to_numpy(),
        pairs["weight"].cast(pl.Float64).to_numpy(),
        nothing,
    )


def train(recipe_file: RecipeFile, data: Path | None) -> Benchmark:
    """Train collab on all but the held-out pairs. Raises InputError without `data`, TableError for a wrong table."""
    settings = recipe_file.recipe
    found = source(settings, data)
    heard = k_core(found, settings.benchmark.core)
    progress.say(
        f"listening: {found.rows:,} rows; " + ", ".join(f"{key}: {note:,}" for key, note in found.notes.items())
    )
    parts = split.split_interactions(heard, [], settings.split, settings.seed)
    with run.deterministic():
        model = collab.train(heard.select(parts != split.TEST), settings.collab, settings.seed)
    card = {"collab": collab.measure(model, heard.select(parts == split.TEST))}
    return Benchmark(recipe_file, heard, model, card, run.provenance(recipe_file, {"listening": found}))
