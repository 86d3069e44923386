"""Rebuild of a bundle from its own provenance, and the comparison of both builds."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from musix_exporter import export
from musix_runtime.bundle.manifest import MANIFEST, Manifest, Provenance
from musix_runtime.bundle.reader import Bundle
from musix_runtime.errors import ManifestError, RebuildError, RecipeError
from musix_trainer import pipeline, recipe
from musix_trainer.recipe import RecipeFile

UNKNOWN_CAUSE = "unknown: recipe, data, packages and commit are equal; the processor or its libraries may differ"


class RebuildReport(msgspec.Struct, frozen=True):
    """The result of a rebuild: both digests, the names of the differing files and manifest keys, and the reasons."""

    label: str
    digest: str
    rebuilt: str
    equal: bool
    files: list[str]
    manifest: list[str]
    reasons: list[str]

    def lines(self) -> Iterator[str]:
        """Yield the result as lines for a terminal."""
        if self.equal:
            yield f"{self.label}: equal, byte for byte"
            yield f"digest {self.digest}"
            return
        yield f"{self.label}: not equal"
        yield f"digest {self.digest}"
        yield f"rebuilt {self.rebuilt}"
        files = self.files or ["none but the manifest"]
        for title, items in (("files", files), ("manifest", self.manifest), ("reasons", self.reasons)):
            yield title
            yield from (f"  {item}" for item in items)

    def check(self) -> None:
        """Raise RebuildError when the builds are not equal."""
        if not self.equal:
            raise RebuildError(
                f"{self.label}: expected digest {self.digest}, found {self.rebuilt}; reasons: {'; '.join(self.reasons)}"
            )


def rebuild(bundle: Bundle, data: Path | None) -> RebuildReport:
    """Train and export the recipe of the bundle in a temporary folder. Return the comparison with the bundle.

    Raises ManifestError when the recipe is not one of this version, InputError when it is trained on tables and `data`
    is None.
    """
    recipe_file = _recipe(bundle)
    trained = pipeline.train(recipe_file, data)
    if "evaluation" in bundle.manifest.quality:  # `musix evaluate` measured it after the training
        evaluation = {"evaluation": bundle.manifest.quality["evaluation"]}
        trained = replace(trained, quality=trained.quality | evaluation)
    with TemporaryDirectory() as folder:
        rebuilt = export.export(trained, Path(folder) / recipe_file.recipe.label)
    return compare(bundle, rebuilt)


def compare(bundle: Bundle, rebuilt: Bundle) -> RebuildReport:
    """Return the differences between two builds, by their manifests."""
    first, second = bundle.manifest, rebuilt.manifest
    equal = bundle.digest == rebuilt.digest
    files = [name for name, file in first.files.items() if second.files[name] != file]
    reasons = list(_reasons(first.provenance, second.provenance))
    return RebuildReport(
        label=f"{first.name}-{first.version}",
        digest=bundle.digest,
        rebuilt=rebuilt.digest,
        equal=equal,
        files=files,
        manifest=[] if equal else _differing_keys(first, second),
        reasons=[] if equal else reasons or [UNKNOWN_CAUSE],
    )


def _recipe(bundle: Bundle) -> RecipeFile:
    """Return the recipe as a file of the working folder, whose Git commit is recorded. Raises ManifestError."""
    place = Path(f"{bundle.path / MANIFEST}: provenance.recipe")
    try:
        parsed = recipe.parse(bundle.manifest.provenance.recipe.encode(), place)
    except RecipeError as error:
        raise ManifestError(str(error)) from error
    return replace(parsed, path=Path(f"{bundle.manifest.name}.toml"))


def _differing_keys(first: Manifest, second: Manifest) -> list[str]:
    return [key for key in first.__struct_fields__ if getattr(first, key) != getattr(second, key)]


def _reasons(first: Provenance, second: Provenance) -> Iterator[str]:
    """Yield every difference of the provenances that can explain different bytes."""
    if first.recipe_sha256 != second.recipe_sha256:
        yield _reason("recipe text, SHA-256", first.recipe_sha256, second.recipe_sha256)
    for name in sorted(first.sources.keys() | second.sources.keys()):
        was, now = (origin.sources[name].sha256 if name in origin.sources else None for origin in (first, second))
        if was != now:
            yield _reason(f"data, {name}, SHA-256", was, now)
    for name in sorted(first.packages.keys() | second.packages.keys()):
        was, now = first.packages.get(name), second.packages.get(name)
        if was != now:
            yield _reason(f"package {name}", was, now)
    if first.git_commit != second.git_commit:
        yield _reason("git commit", first.git_commit, second.git_commit)


def _reason(name: str, was: Any, now: Any) -> str:
    return f"{name}: was {was or 'none'}, is {now or 'none'}"
