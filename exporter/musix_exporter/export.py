"""Pack: a run becomes a bundle folder, its manifest written last."""

import hashlib
from collections.abc import Callable
from dataclasses import replace as changed
from importlib.metadata import version
from pathlib import Path

import msgspec

from musix_exporter import catalog, collab, content, genre, golden, mood, parity, ranker
from musix_exporter.bundle_writer import Files
from musix_runtime.atomic import new_folder
from musix_runtime.bundle import manifest as manifests
from musix_runtime.bundle.golden import Golden, replay
from musix_runtime.bundle.manifest import (
    FORMAT,
    FORMAT_VERSION,
    GOLDEN,
    LAYOUT,
    MANIFEST,
    File,
    Manifest,
    Search,
    Serving,
)
from musix_runtime.bundle.reader import Bundle
from musix_runtime.engine import Engine
from musix_runtime.models import features
from musix_runtime.models.mood import MOODS
from musix_runtime.models.ranker import COMPONENTS
from musix_trainer.run import Run


def export(run: Run, path: Path, replace: bool = False, check: Callable[[Bundle], None] | None = None) -> Bundle:
    """Write the bundle folder `path`: convert all parts, measure parity, verify. Whole or not at all.

    `check` is given the bundle before it gets its name; what it raises leaves no bundle, and an older one as it was.
    Raises ParityError when a converted part is off, OutputError when `path` is taken and shall not be replaced.
    """
    with new_folder(path, replace) as target:
        files = Files(target)
        catalog.convert(run.catalogue, run.catalog, files)
        genre.convert(run.genre, files)
        mood.convert(run.mood, files)
        at, settings = run.recipe.ranker.candidates, run.recipe.index
        indexes = {
            "collab/index.faiss": collab.convert(run.collab, at, settings, files),
            "content/index.faiss": content.convert(run.content, run.collab, at, settings, files),
        }
        ranker.convert(run.ranker, files)
        files.add_bytes(GOLDEN, msgspec.json.encode(Golden({}, [], [])))  # asked once there is an engine
        _write(_manifest(run, target, indexes, {}), target)
        engine = Engine.unproven(Bundle.open(target))
        errors = parity.measure(run, engine)
        files.add_bytes(GOLDEN, msgspec.json.encode(golden.cases(run, engine)))
        _write(_manifest(run, target, indexes, errors), target)
        engine = Engine.open(target)
        replay(engine, engine.golden())
        if check:
            check(engine.bundle)
    return changed(engine.bundle, path=path)


def _write(manifest: Manifest, target: Path) -> None:
    (target / MANIFEST).write_bytes(manifests.encode(manifest))


def _manifest(run: Run, target: Path, indexes: dict[str, Search], errors: dict[str, float]) -> Manifest:
    settings = run.recipe
    return Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        name=settings.name,
        version=settings.version,
        features=list(features.INPUTS),
        families=run.catalogue.labels,
        moods=list(MOODS),
        components=list(COMPONENTS),
        counts=_counts(run),
        serving=Serving(settings.ranker.candidates, settings.ranker.pool, settings.ranker.blend),
        indexes=indexes,
        files={name: _file(target / name) for name in LAYOUT},
        parity=errors,
        quality=run.quality,
        provenance=msgspec.structs.replace(run.provenance, packages=run.provenance.packages | _packages()),
    )


def _counts(run: Run) -> dict[str, int]:
    frame = run.catalogue.frame
    return {
        "tracks": len(run.catalogue),
        "ids": run.catalogue.ids.height,
        "name_bytes": int(frame["track_name"].str.len_bytes().sum()),
        "artist_bytes": int(frame["artists"].str.len_bytes().sum()),
        "popular": len(run.catalog.popular),
        "artists": len(run.genre.artists),
        "genre_width": run.genre.item_factors.shape[1] + 1 + len(run.catalogue.labels),
        "grams": len(run.genre.grams),
        "listeners": len(run.collab.listeners),
        "heard": len(run.collab.rows),
        "collab_width": run.collab.track_factors.shape[1],
        "taste_width": run.collab.tastes.shape[1],
        "plays": len(run.collab.history_rows),
    }


def _packages() -> dict[str, str]:
    return {name: version(name) for name in ("onnx", "onnxmltools", "onnxruntime", "onnxscript", "skl2onnx")}


def _file(path: Path) -> File:
    content = path.read_bytes()
    return File(len(content), hashlib.sha256(content).hexdigest())
