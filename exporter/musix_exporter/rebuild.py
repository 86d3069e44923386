"""Rebuild: a bundle built again from its own provenance, and held against the first, file by file."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from musix_exporter import export
from musix_runtime.bundle.manifest import MANIFEST, Manifest, Provenance
from musix_runtime.bundle.reader import Bundle
from musix_runtime.errors import ManifestError, RebuildError
from musix_trainer import recipe, run
from musix_trainer.recipe import RecipeFile

UNEXPLAINED = "none known: recipe, data, packages and commit are the same; the processor or its libraries may not be"


class Rebuilt(msgspec.Struct, frozen=True):
    """What a rebuild came to: both digests, the files that differ, what differs in the manifest, and why."""

    label: str
    digest: str
    rebuilt: str
    equal: bool
    files: list[str]
    manifest: list[str]
    reasons: list[str]

    def json(self) -> str:
        """As JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()

    def text(self) -> str:
        """As lines for a terminal."""
        if self.equal:
            return f"{self.label}: equal, byte for byte\ndigest {self.digest}"
        told = {"files": self.files or ["none but the manifest"], "manifest": self.manifest, "reasons": self.reasons}
        return "\n".join(
            [
                f"{self.label}: not equal",
                f"digest {self.digest}\nrebuilt {self.rebuilt}",
                *(f"{name}\n" + "\n".join(f"  {each}" for each in lines) for name, lines in told.items()),
            ]
        )

    def check(self) -> None:
        """Raise RebuildError when the two are not equal."""
        if not self.equal:
            raise RebuildError(
                f"{self.label}: expected digest {self.digest}, found {self.rebuilt}; reasons: {'; '.join(self.reasons)}"
            )


def rebuild(bundle: Bundle, data: Path | None) -> Rebuilt:
    """Train and export what the bundle's provenance says, in a temporary folder, and compare.

    Raises ManifestError when the recipe's text does not have the SHA-256 that stands beside it, RecipeError when this
    version does not know the recipe, InputError when the recipe learns from tables and `data` is None.
    """
    recipe_file = _recipe(bundle)
    trained = run.train(recipe_file, data)
    if "evaluation" in bundle.manifest.quality:  # what was measured apart from the training is taken over
        measured = {"evaluation": bundle.manifest.quality["evaluation"]}
        trained = replace(trained, quality=trained.quality | measured)
    with TemporaryDirectory() as folder:
        again = export.export(trained, Path(folder) / recipe_file.recipe.label)
    return compare(bundle, again)


def compare(bundle: Bundle, again: Bundle) -> Rebuilt:
    """Hold two builds against each other by what their manifests say."""
    first, second = bundle.manifest, again.manifest
    equal = bundle.digest == again.digest
    files = [name for name, file in first.files.items() if second.files[name] != file]
    reasons = list(_reasons(first.provenance, second.provenance))
    return Rebuilt(
        label=f"{first.name}-{first.version}",
        digest=bundle.digest,
        rebuilt=again.digest,
        equal=equal,
        files=files,
        manifest=[] if equal else _keys(first, second),
        reasons=[] if equal else reasons or [UNEXPLAINED],
    )


def _recipe(bundle: Bundle) -> RecipeFile:
    """The recipe, as if it lay in the working folder: from there its commit is asked."""
    provenance = bundle.manifest.provenance
    text = provenance.recipe.encode()
    found = hashlib.sha256(text).hexdigest()
    if found != provenance.recipe_sha256:
        raise ManifestError(
            f"{bundle.path / MANIFEST}: provenance.recipe: expected SHA-256 {provenance.recipe_sha256}, found {found}"
        )
    return recipe.parse(text, Path(f"{bundle.manifest.name}.toml"))


def _keys(first: Manifest, second: Manifest) -> list[str]:
    return [key for key in first.__struct_fields__ if getattr(first, key) != getattr(second, key)]


def _reasons(first: Provenance, second: Provenance) -> Iterator[str]:
    """Every cause that the provenances tell of."""
    if first.recipe_sha256 != second.recipe_sha256:
        yield _reason("recipe text, SHA-256", first.recipe_sha256, second.recipe_sha256)
    for name in sorted(first.sources.keys() | second.sources.keys()):
        was, now = (each.sources[name].sha256 if name in each.sources else None for each in (first, second))
        if was != now:
            yield _reason(f"data, {name}, SHA-256", was, now)
    for name in sorted(first.packages.keys() | second.packages.keys()):
        was, now = first.packages.get(name), second.packages.get(name)
        if was != now:
            yield _reason(f"package {name}", was, now)
    if first.git_commit != second.git_commit:
        yield _reason("git commit", first.git_commit, second.git_commit)


def _reason(what: str, was: Any, now: Any) -> str:
    return f"{what}: was {was or 'none'}, is {now or 'none'}"
