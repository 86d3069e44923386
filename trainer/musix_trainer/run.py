"""A training run: the models of all parts, and the folder that stores them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from musix_runtime.atomic import new_folder
from musix_runtime.bundle.manifest import Provenance
from musix_runtime.errors import InputError
from musix_runtime.models.retrieval import Retriever
from musix_trainer import curves, recipe
from musix_trainer.curves import Point
from musix_trainer.data import tables
from musix_trainer.data.interactions import Interactions
from musix_trainer.data.moods import Moods
from musix_trainer.data.tracks import Tracks
from musix_trainer.models import artists, collab, content, genre, item_stats, mood, ranker
from musix_trainer.models.artists import ArtistsModel
from musix_trainer.models.collab import CollabModel
from musix_trainer.models.content import ContentModel
from musix_trainer.models.genre.model import GenreModel
from musix_trainer.models.item_stats import ItemStats
from musix_trainer.models.mood import MoodModel
from musix_trainer.models.parts import PARTS
from musix_trainer.models.ranker.network import RankerModel
from musix_trainer.models.retriever import make_retriever
from musix_trainer.part import M, Part
from musix_trainer.recipe import Recipe, RecipeFile
from musix_trainer.runs import EVALUATION, evaluation


@dataclass(frozen=True)
class Run:
    """The result of one training: data, models, quality card, provenance and learning curves."""

    recipe_file: RecipeFile
    catalogue: Tracks
    interactions: Interactions
    models: Mapping[str, Any]  # of the parts, by name
    quality: dict[str, Any]
    provenance: Provenance
    points: Sequence[Point] = ()
    moods: Moods | None = None  # perceived, for training or evaluation

    @property
    def recipe(self) -> Recipe:
        return self.recipe_file.recipe

    def model(self, part: Part[M]) -> M:
        """Return the model of a part."""
        return cast(M, self.models[part.name])

    def with_models(self, **models: Any) -> "Run":
        """Return the run with the models of the named parts replaced."""
        return replace(self, models={**self.models, **models})

    @property
    def catalog(self) -> ItemStats:
        return self.model(item_stats.PART)

    @property
    def genre(self) -> GenreModel:
        return self.model(genre.PART)

    @property
    def mood(self) -> MoodModel:
        return self.model(mood.PART)

    @property
    def artists(self) -> ArtistsModel:
        return self.model(artists.PART)

    @property
    def collab(self) -> CollabModel:
        return self.model(collab.PART)

    @property
    def content(self) -> ContentModel:
        return self.model(content.PART)

    @property
    def ranker(self) -> RankerModel:
        return self.model(ranker.PART)

    def retriever(self) -> Retriever:
        """Return the runtime's retriever over the run's arrays."""
        settings = self.recipe.ranker
        blend = self.ranker.serving_blend(settings)
        return make_retriever(self.artists, self.collab, self.content, self.catalog, settings, blend)

    def served(self) -> "Run":
        """Return the run as a bundle has it: the listeners' histories are whole, with the interactions that were held
        out, as nobody wants to be proposed what they know."""
        return self.with_models(collab=self.collab.with_histories(self.interactions))

    def save(self, path: Path) -> None:
        """Write the run into `path` atomically, and replace an older run."""
        with new_folder(path, replace=True) as target:
            (target / "recipe.toml").write_bytes(self.recipe_file.text)
            tables.write(target / "tracks.parquet", self.catalogue.frame)
            tables.write(target / "ids.parquet", self.catalogue.ids)
            self.interactions.save(target / "listening")
            if self.moods:
                self.moods.save(target / "moods")
            np.save(target / "inputs.npy", self.catalogue.inputs)
            np.save(target / "families.npy", self.catalogue.families)
            for name, model in self.models.items():
                model.save(target / name)
            curves.save(target / curves.FILE, self.points)
            card = {"labels": self.catalogue.labels, "quality": self.quality, "provenance": self.provenance}
            (target / "run.json").write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2))

    @classmethod
    def load(cls, path: Path, parts: Sequence[Part[Any]] = PARTS) -> "Run":
        """Read a run of these parts that `save` wrote. Raises InputError when `path` is not one."""
        if not (path / "run.json").is_file():
            raise InputError(f"{path}: expected a run folder with run.json, found none")
        try:
            return cls._read(path, parts)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, msgspec.ValidationError) as error:
            raise InputError(f"{path}: expected a complete run folder of this version, found: {error}") from error

    @classmethod
    def _read(cls, path: Path, parts: Sequence[Part[Any]]) -> "Run":
        recipe_file = recipe.read(path / "recipe.toml")
        if recipe_file.recipe.source == "lastfm":
            raise InputError(f"{path}: expected a run of all parts, found one of interactions alone")
        card = json.loads((path / "run.json").read_bytes())
        origin = check_recipe(recipe_file, msgspec.convert(card["provenance"], Provenance))
        tracks, ids = tables.read_all([path / "tracks.parquet", path / "ids.parquet"])
        return cls(
            recipe_file,
            Tracks(
                tracks.frame,
                ids.frame,
                np.load(path / "inputs.npy"),
                card["labels"],
                np.load(path / "families.npy"),
            ),
            Interactions.load(path / "listening"),
            {part.name: part.load(path / part.name, recipe_file.recipe) for part in parts},
            card["quality"] | ({"evaluation": results} if (results := evaluation(path)) else {}),
            origin,
            curves.load(path / curves.FILE),
            Moods.load(path / "moods") if (path / "moods").exists() else None,
        )


def check_recipe(recipe_file: RecipeFile, origin: Provenance) -> Provenance:
    """Return the provenance of a run. Raises InputError if the recipe has changed since the training."""
    if recipe_file.sha256 != origin.recipe_sha256:
        raise InputError(
            f"{recipe_file.path}: expected the recipe that the run was trained with, SHA-256 {origin.recipe_sha256},"
            f" found {recipe_file.sha256}; to change a recipe, train again"
        )
    return origin


def check_unevaluated(path: Path) -> None:
    """Raise InputError if the run in `path` has results of `musix evaluate`, which a new run would delete."""
    if (path / EVALUATION).exists():
        raise InputError(
            f"{path}: expected no run with an evaluation, which a new run would delete, found {EVALUATION};"
            " pass --replace, or write elsewhere with --out"
        )
