"""The bundles that are mutated: two small ones, which are trained if they are missing, and any given folder."""

import hashlib
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from musix_runtime import Engine
from musix_runtime.bundle.manifest import FORMAT_VERSION, MANIFEST
from musix_runtime.errors import MusixError
from musix_runtime.models.parts import LAYOUT
from tests.recipes import SMALL

CACHE = Path(__file__).parents[2] / "build" / "fuzz"
EXACT = {"flat": 300_000, "ivf": 1_000}  # by index kind, the numbers up to which a search is exact


@dataclass(frozen=True)
class Base:
    """A valid bundle: its name on the command line, its folder and its content."""

    name: str
    folder: Path

    @cached_property
    def files(self) -> dict[str, bytes]:
        """The bytes of each listed file."""
        return {name: (self.folder / name).read_bytes() for name in LAYOUT.files}

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The decoded manifest."""
        return msgspec.json.decode((self.folder / MANIFEST).read_bytes())


def base(name: str) -> Base:
    """Return the base bundle `name`: `flat`, `ivf` or the path of a bundle folder."""
    return Base(name, _cached(name) if name in EXACT else Path(name))


def _cached(kind: str) -> Path:
    """Return the folder of a small bundle, which is built unless it exists and can be opened."""
    recipe = f"{SMALL.replace('small', f'fuzz-{kind}')}[index]\nexact = {EXACT[kind]}\nrecall = 0.5\n"
    key = hashlib.sha256(f"{FORMAT_VERSION}{recipe}".encode()).hexdigest()[:12]
    folder = CACHE / f"{kind}-{key}"
    if not _opens(folder):
        with tempfile.TemporaryDirectory() as work:
            built = _build(recipe, Path(work))
            partial = CACHE / f".{folder.name}.{os.getpid()}"
            shutil.copytree(built, partial)
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another process was faster, with the same bundle
            partial.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _opens(folder: Path) -> bool:
    try:
        Engine.open(folder)
    except MusixError:
        return False
    return True


def _build(recipe: str, work: Path) -> Path:
    from musix_exporter import export  # takes seconds to import, and is needed once
    from musix_trainer import pipeline
    from musix_trainer import recipe as recipes

    (work / "fuzz.toml").write_text(recipe)
    return export.export(pipeline.train(recipes.read(work / "fuzz.toml"), None), work / "bundle").path
