"""The training: from a recipe to the run of all parts."""

import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from musix_runtime.bundle.manifest import Provenance, SourceInfo
from musix_runtime.errors import InputError, RecipeError, TableError
from musix_trainer import curves, progress, quality
from musix_trainer.data import families as genre_families
from musix_trainer.data import split, synthetic, tables
from musix_trainer.data.families import Families
from musix_trainer.data.impressions import Impressions, read_impressions
from musix_trainer.data.interactions import Interactions, read_interactions
from musix_trainer.data.moods import Moods, read_moods
from musix_trainer.data.tables import Table
from musix_trainer.data.tracks import Tracks, read_tracks
from musix_trainer.models.parts import PARTS
from musix_trainer.models.ranker.training import MIN_USERS
from musix_trainer.part import Part, Training
from musix_trainer.recipe import Recipe, RecipeFile
from musix_trainer.run import Run

SPLIT_KEYS = ("train_pairs", "validation_pairs", "test_pairs")  # of the quality card's section `split`
MIN_SHARED_TRACKS = 20  # heard by two listeners or more: with fewer, candidates hardly differ in their scores
PACKAGES = ("faiss-cpu", "numpy", "polars", "rectools-lightfm", "scikit-learn", "scipy", "torch", "xgboost")


def train(recipe_file: RecipeFile, data: Path | None, parts: Sequence[Part[Any]] = PARTS) -> Run:
    """Train the parts in this order. `data` is the folder of the recipe's tables; a synthetic source needs none.

    Linear algebra runs on one thread, so that the result does not depend on the number of processors.
    Raises RecipeError for a gate on a metric that no part reports.
    """
    check_gates(recipe_file, parts)
    settings = recipe_file.recipe
    sources, families = _sources(settings, data), _families(settings, data)
    if settings.mood.teacher == "perceived" and "moods" not in sources:
        raise InputError(
            f"{recipe_file.path}: mood.teacher: expected a table {settings.tables.moods} of perceived moods in the data"
            " folder, found none; `musix import moods` makes one"
        )
    tracks = read_tracks(sources["tracks"], families)
    interactions = _interactions(sources, tracks, settings)
    impressions = read_impressions(sources["feedback"], tracks, interactions) if "feedback" in sources else None
    _check_listening(interactions, sources["listening"].name, ranks_by_listening=impressions is None)
    moods = read_moods(sources["moods"], tracks) if "moods" in sources else None
    for name, source in sources.items():
        progress.say(
            f"{name}: {source.rows:,} rows; "
            + ", ".join(f"{key}: {_format_note(note)}" for key, note in source.notes.items())
        )
    with deterministic(), curves.recording() as points:
        models, card = _train_parts(settings, tracks, interactions, impressions, moods, parts)
    for curve in curves.curves(points):
        progress.say(curves.summary(curve))
    origin = provenance(recipe_file, sources, families)
    return Run(recipe_file, tracks, interactions, models, card, origin, points, moods)


def quality_keys(parts: Sequence[Part[Any]] = PARTS) -> frozenset[str]:
    """Return the keys of all metrics that a training of these parts reports."""
    return quality.keys("split", SPLIT_KEYS).union(*(part.quality_keys for part in parts))


def inapplicable_keys(card: dict[str, Any], parts: Sequence[Part[Any]] = PARTS) -> frozenset[str]:
    """Return the keys that this quality card cannot have, as they are of other variants of the models."""
    return frozenset[str]().union(*(part.inapplicable(card) for part in parts))


def check_gates(recipe_file: RecipeFile, parts: Sequence[Part[Any]] = PARTS) -> None:
    """Raise RecipeError for a gate on a metric that no training of these parts reports."""
    known, gates = quality_keys(parts), recipe_file.recipe.gates
    for bound, limits in (("at_least", gates.at_least), ("at_most", gates.at_most)):
        for key in limits:
            if key not in known:
                raise RecipeError(
                    f"{recipe_file.path}: gates.{bound}: {key!r}: expected a key of the quality card; the nearest are"
                    f" {quality.nearest(key, known)}"
                )


def tables_of(recipe_file: RecipeFile, data: Path | None) -> tuple[Tracks, Interactions]:
    """Return the recipe's catalogue and interactions, read and checked."""
    sources = _sources(recipe_file.recipe, data)
    tracks = read_tracks(sources["tracks"], _families(recipe_file.recipe, data))
    return tracks, _interactions(sources, tracks, recipe_file.recipe)


def _interactions(sources: dict[str, Table], tracks: Tracks, settings: Recipe) -> Interactions:
    """Return the listening, and the playlists beside it if there are any."""
    listening = read_interactions(sources["listening"], tracks, settings.split.before_s)
    if "playlists" not in sources:
        return listening
    return listening.with_playlists(read_interactions(sources["playlists"], tracks))


def _check_listening(interactions: Interactions, name: str, ranks_by_listening: bool) -> None:
    """Raise TableError for listening that is too little to learn from."""
    tracks = int((np.bincount(interactions.row) > 1).sum())
    if tracks < MIN_SHARED_TRACKS:
        raise TableError(
            f"{name}: expected at least {MIN_SHARED_TRACKS} tracks of the catalogue that two listeners or more heard,"
            f" from which collab learns, found {tracks:,}"
        )
    listeners = int((np.bincount(interactions.listener) > 1).sum())
    if ranks_by_listening and listeners < MIN_USERS:
        raise TableError(
            f"{name}: expected at least {MIN_USERS} listeners with two tracks of the catalogue or more, from whom the"
            f" ranker learns, found {listeners:,}"
        )


def _train_parts(
    settings: Recipe,
    tracks: Tracks,
    interactions: Interactions,
    impressions: Impressions | None,
    moods: Moods | None,
    parts: Sequence[Part[Any]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the models by name, and the quality card."""
    assigned = split.split_interactions(interactions, tracks.primary_artists(), settings.split, settings.seed)
    train_data, validation, test = (
        interactions.select(assigned == part) for part in (split.TRAIN, split.VALIDATION, split.TEST)
    )
    if impressions:
        impressions = impressions.without(interactions.select(assigned != split.VALIDATION))
    sizes = zip(SPLIT_KEYS, map(len, (train_data, validation, test)), strict=True)
    card: dict[str, Any] = {"split": {"by": settings.split.by, **dict(sizes)}}
    models: dict[str, Any] = {}
    training = Training(settings, tracks, train_data, validation, test, impressions, models, moods)
    for part in parts:
        models[part.name], sections = part.train(training)
        card |= sections
    return models, card


def _sources(settings: Recipe, data: Path | None) -> dict[str, Table]:
    if settings.source == "synthetic":
        progress.say("the data is simulated: the metrics do not apply to real listeners")
        return synthetic.generate_tables(settings.synthetic, settings.seed)
    if settings.source == "lastfm":
        raise InputError(
            f"{settings.name}: expected a recipe with tracks, found one of interactions alone, which is for"
            " `musix train` and `musix evaluate`"
        )
    if data is None:
        raise InputError(f"{settings.name}: this recipe reads tables: pass their folder with --data")
    files = {
        "tracks": settings.tables.tracks,
        "listening": settings.tables.listening,
        "playlists": settings.tables.playlists,
        "feedback": settings.tables.feedback,
        "moods": settings.tables.moods if (data / settings.tables.moods).exists() else None,
    }
    paths = {name: data / file for name, file in files.items() if file}
    return dict(zip(paths, tables.read_all([*paths.values()]), strict=True))


def _families(settings: Recipe, data: Path | None) -> Families | None:
    """Return the recipe's own genre families, None for the shipped ones."""
    if settings.source != "tables" or data is None or settings.tables.families is None:
        return None
    return genre_families.read(data / settings.tables.families)


def _format_note(note: int | str) -> str:
    return f"{note:,}" if isinstance(note, int) else note


@contextmanager
def deterministic() -> Iterator[None]:
    """Run linear algebra and PyTorch on one thread, and PyTorch with deterministic kernels."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms, which imports PyTorch's compiler
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_deterministic_debug_mode("default")
        torch.set_num_threads(threads)


def provenance(recipe_file: RecipeFile, sources: dict[str, Table], families: Families | None = None) -> Provenance:
    """Return what a run was made from: recipe, sources, its own genre families, package versions and commit."""
    return Provenance(
        recipe_sha256=recipe_file.sha256,
        recipe=recipe_file.text.decode(),
        sources={name: SourceInfo(each.sha256, each.rows, each.simulated, each.notes) for name, each in sources.items()}
        | ({"families": families.source()} if families else {}),
        packages={name: version(name) for name in ("musix-edge", *PACKAGES)} | {"python": platform.python_version()},
        git_commit=_git_commit(recipe_file),
    )


def _git_commit(recipe_file: RecipeFile) -> str | None:
    """Return the git commit of the recipe's folder, or None."""
    command = ["git", "-C", str(recipe_file.path.parent), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return result.stdout.strip() or None
