"""The run: one training from recipe to five parts, and the folder that keeps it."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from musix_runtime.atomic import new_folder
from musix_runtime.bundle.manifest import Provenance, Serving, Source
from musix_runtime.errors import InputError
from musix_runtime.models.features import AUDIO
from musix_runtime.models.retrieval import Retriever
from musix_trainer import progress, recipe
from musix_trainer.data import split, synthetic, tables
from musix_trainer.data.impressions import Impressions, read_impressions
from musix_trainer.data.interactions import Interactions, read_interactions
from musix_trainer.data.tables import Table
from musix_trainer.data.tracks import Tracks, read_tracks
from musix_trainer.models import collab, content, genre, item_stats, mood, ranker
from musix_trainer.recipe import Recipe, RecipeFile

EVALUATION = "evaluation"  # folder in the run's, written by `musix evaluate`
PACKAGES = ("faiss-cpu", "numpy", "polars", "rectools-lightfm", "scikit-learn", "scipy", "torch", "xgboost")


@dataclass(frozen=True)
class Run:
    """Everything that one training gave."""

    recipe_file: RecipeFile
    catalogue: Tracks
    interactions: Interactions
    catalog: item_stats.ItemStats
    genre: genre.GenreModel
    mood: mood.MoodModel
    collab: collab.CollabModel
    content: content.ContentModel
    ranker: ranker.RankerModel
    quality: dict[str, Any]
    provenance: Provenance

    @property
    def recipe(self) -> Recipe:
        return self.recipe_file.recipe

    def retriever(self) -> Retriever:
        """The runtime's retriever over this run's own arrays."""
        return make_retriever(self.collab, self.content, self.catalog, self.recipe.ranker)

    def save(self, path: Path) -> None:
        """Write the run into `path`, in place of what was there; whole or not at all."""
        with new_folder(path, replace=True) as target:
            (target / "recipe.toml").write_bytes(self.recipe_file.text)
            tables.write(target / "tracks.parquet", self.catalogue.frame)
            tables.write(target / "ids.parquet", self.catalogue.ids)
            self.interactions.save(target / "listening")
            np.save(target / "inputs.npy", self.catalogue.inputs)
            np.save(target / "families.npy", self.catalogue.families)
            for part in ("catalog", "genre", "mood", "collab", "content", "ranker"):
                getattr(self, part).save(target / part)
            card = {"labels": self.catalogue.labels, "quality": self.quality, "provenance": self.provenance}
            (target / "run.json").write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2))

    @classmethod
    def load(cls, path: Path) -> "Run":
        """Read a run that `save` wrote. Raises InputError when `path` is not one."""
        if not (path / "run.json").is_file():
            raise InputError(f"{path}: expected a run folder with run.json, found none")
        try:
            return cls._read(path)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, msgspec.ValidationError) as error:
            raise InputError(f"{path}: expected a whole run folder of this version, found: {error}") from error

    @classmethod
    def _read(cls, path: Path) -> "Run":
        recipe_file = recipe.read(path / "recipe.toml")
        if recipe_file.recipe.source == "lastfm":
            raise InputError(f"{path}: expected a run of all five parts, found one of listening alone")
        card = json.loads((path / "run.json").read_bytes())
        origin = check_recipe(recipe_file, msgspec.convert(card["provenance"], Provenance))
        return cls(
            recipe_file,
            Tracks(
                tables.read(path / "tracks.parquet").frame,
                tables.read(path / "ids.parquet").frame,
                np.load(path / "inputs.npy"),
                card["labels"],
                np.load(path / "families.npy"),
            ),
            Interactions.load(path / "listening"),
            item_stats.ItemStats.load(path / "catalog"),
            genre.GenreModel.load(path / "genre"),
            mood.MoodModel.load(path / "mood", recipe_file.recipe.mood),
            collab.CollabModel.load(path / "collab"),
            content.ContentModel.load(path / "content"),
            ranker.RankerModel.load(path / "ranker", recipe_file.recipe.ranker),
            card["quality"] | ({"evaluation": found} if (found := evaluation(path)) else {}),
            origin,
        )


def check_recipe(recipe_file: RecipeFile, origin: Provenance) -> Provenance:
    """The provenance of a run. Raises InputError when its recipe is not the one that it was trained by."""
    if recipe_file.sha256 != origin.recipe_sha256:
        raise InputError(
            f"{recipe_file.path}: expected the recipe that the run was trained by, SHA-256 {origin.recipe_sha256},"
            f" found {recipe_file.sha256}; to change a recipe, train again"
        )
    return origin


def evaluation(path: Path) -> dict[str, Any]:
    """What `musix evaluate` measured of the run in `path`: PART: PROTOCOL: METRIC: figure; empty when nothing was."""
    found: dict[str, Any] = {}
    run = hashlib.sha256((path / "run.json").read_bytes()).hexdigest()
    for file in sorted((path / EVALUATION).glob("*.json")):
        content = json.loads(file.read_bytes())
        if content["key"]["run"] == run:
            for protocol, results in content["results"].items():
                part, _, of = protocol.partition("/")
                found.setdefault(part, {})[of] = results
    return found


def make_retriever(
    collab_model: collab.CollabModel,
    content_model: content.ContentModel,
    catalog_model: item_stats.ItemStats,
    settings: recipe.Ranker,
) -> Retriever:
    """The runtime's retriever over trained arrays."""
    return Retriever(
        collab_model.runtime(),
        content_model.runtime(),
        catalog_model.families,
        catalog_model.freshness,
        catalog_model.popularity,
        catalog_model.popular,
        Serving(settings.candidates, settings.pool, settings.blend),
    )


def train(recipe_file: RecipeFile, data: Path | None) -> Run:
    """Train all five parts. `data` is the folder of the recipe's tables; not needed for a synthetic source.

    Linear algebra runs on one thread, so that the same recipe and data give the same bytes on every machine alike.
    """
    settings, seed = recipe_file.recipe, recipe_file.recipe.seed
    sources = _sources(settings, data)
    tracks = read_tracks(sources["tracks"])
    heard = read_interactions(sources["listening"], tracks)
    given = read_impressions(sources["feedback"], tracks, heard) if "feedback" in sources else None
    for name, source in sources.items():
        progress.say(
            f"{name}: {source.rows:,} rows; "
            + ", ".join(f"{key}: {_shown(note)}" for key, note in source.notes.items())
        )
    with deterministic():
        parts, quality = _train_parts(settings, tracks, heard, given, seed)
    return Run(recipe_file, tracks, heard, **parts, quality=quality, provenance=provenance(recipe_file, sources))


def tables_of(recipe_file: RecipeFile, data: Path | None) -> tuple[Tracks, Interactions]:
    """The recipe's catalogue and listening, read and checked."""
    sources = _sources(recipe_file.recipe, data)
    tracks = read_tracks(sources["tracks"])
    return tracks, read_interactions(sources["listening"], tracks)


def _train_parts(
    settings: Recipe, tracks: Tracks, heard: Interactions, given: Impressions | None, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    parts = split.split_interactions(heard, tracks.primary_artists(), settings.split, seed)
    trained, validation, test = (heard.select(parts == part) for part in (split.TRAIN, split.VALIDATION, split.TEST))
    genre_model, genre_card = genre.train(tracks, settings.genre, seed)
    audio = np.ascontiguousarray(tracks.inputs[:, : len(AUDIO)])
    mood_model, mood_card = mood.train(audio, settings.mood, seed)
    moods = mood_model.probabilities(audio)
    collab_model = collab.train(trained, settings.collab, seed)
    content_model, content_card = content.train(tracks, moods, settings.content)
    catalog_model = item_stats.train(tracks, moods, trained, settings.catalog)
    retriever = make_retriever(collab_model, content_model, catalog_model, settings.ranker)
    given = given.without(heard.select(parts != split.VALIDATION)) if given else None
    ranker_model, ranker_card = ranker.train(retriever, collab_model, given, validation, settings.ranker, seed)
    quality = {
        "split": {
            "by": settings.split.by,
            "train_pairs": len(trained),
            "validation_pairs": len(validation),
            "test_pairs": len(test),
        },
        "genre": genre_card,
        "mood": mood_card,
        "collab": collab.measure(collab_model, test),
        "content": content_card,
        "ranker": ranker_card,
        "hybrid": ranker.measure(retriever, collab_model, ranker_model, test),
    }
    models = {
        "catalog": catalog_model,
        "genre": genre_model,
        "mood": mood_model,
        "collab": collab_model,
        "content": content_model,
        "ranker": ranker_model,
    }
    return models, quality


def _sources(settings: Recipe, data: Path | None) -> dict[str, Table]:
    if settings.source == "synthetic":
        progress.say("the data is simulated: it shows that all works, and nothing about real listeners")
        return synthetic.generate_tables(settings.synthetic, settings.seed)
    if settings.source == "lastfm":
        raise InputError(
            f"{settings.name}: expected a recipe with tracks, found one of listening alone: for `musix train` and"
            " `musix evaluate`"
        )
    if data is None:
        raise InputError(f"{settings.name}: this recipe learns from tables: name their folder with --data")
    files = {
        "tracks": settings.tables.tracks,
        "listening": settings.tables.listening,
        "feedback": settings.tables.feedback,
    }
    return {name: tables.read(data / file) for name, file in files.items() if file}


def _shown(note: int | str) -> str:
    return f"{note:,}" if isinstance(note, int) else note


@contextmanager
def deterministic() -> Iterator[None]:
    """Linear algebra and PyTorch on one thread, and PyTorch by its deterministic kernels."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)


def provenance(recipe_file: RecipeFile, sources: dict[str, Table]) -> Provenance:
    """What a run was made of, and by what."""
    return Provenance(
        recipe_sha256=recipe_file.sha256,
        recipe=recipe_file.text.decode(),
        sources={name: Source(each.sha256, each.rows, each.simulated, each.notes) for name, each in sources.items()},
        packages={name: version(name) for name in ("musix-edge", *PACKAGES)} | {"python": platform.python_version()},
        git_commit=_git_commit(recipe_file),
    )


def _git_commit(recipe_file: RecipeFile) -> str | None:
    """The commit that the recipe's folder is at, when git knows one."""
    command = ["git", "-C", str(recipe_file.path.parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None
