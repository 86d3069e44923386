"""Variants of a bundle: other versions, whose answers can be told apart; and broken ones."""

import hashlib
import shutil
from pathlib import Path

import msgspec
import numpy as np

from musix_runtime import Registry
from musix_runtime.bundle import manifest as manifests
from musix_runtime.bundle.manifest import MANIFEST

NAMES = "catalog/name_data.npy"


def variant(bundle: Path, path: Path, version: str, mark: str | None = None) -> Path:
    """Copy `bundle` to `path` as `version` of "demo". With `mark`, a letter, all titles begin with it."""
    shutil.copytree(bundle, path)
    if mark is not None:
        names = np.load(path / NAMES)
        names[np.load(path / "catalog/name_offsets.npy")[:-1]] = ord(mark)
        np.save(path / NAMES, names)
    manifest = manifests.decode((path / MANIFEST).read_bytes(), str(path))
    content = (path / NAMES).read_bytes()
    files = manifest.files | {NAMES: manifests.File(len(content), hashlib.sha256(content).hexdigest())}
    other = msgspec.structs.replace(manifest, name="demo", version=version, files=files)
    (path / MANIFEST).write_bytes(manifests.encode(other))
    return path


def copy_registry(published: Path, path: Path, live: list[str], candidates: tuple[str, ...] = ()) -> Registry:
    """Copy versions of "demo" into a new registry: those that are live or were, newest first, and candidates."""
    for version in (*live, *candidates):
        shutil.copytree(published / "demo" / version, path / "demo" / version)
    (path / "demo" / "live").write_text("".join(f"{version}\n" for version in live))
    return Registry(path)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    with path.open("r+b") as file:  # in place: a file that is truncated for a moment would crash processes that map it
        file.seek(path.stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def plant(bundle: Path, store: Path, name: str, broken: str | None = None) -> None:
    """Make a bundle live in a registry without checks. `broken` is the name of a file in it to break."""
    version = manifests.decode((bundle / MANIFEST).read_bytes(), str(bundle)).version
    shutil.copytree(bundle, store / name / version)
    if broken is not None:
        flip(store / name / version / broken)
    pointer = store / name / "live"
    partial = pointer.with_name("planted")
    partial.write_text(f"{version}\n{pointer.read_text()}")
    partial.replace(pointer)
