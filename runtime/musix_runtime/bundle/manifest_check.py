"""Check of a manifest against the parts that a bundle must have."""

import hashlib
from pathlib import Path
from typing import Any

from musix_runtime.bundle.manifest import (
    MAX_DEPTH,
    MAX_FAMILIES,
    MAX_FAMILY_NAME,
    MAX_LISTS,
    MAX_RECIPE_BYTES,
    Manifest,
    Provenance,
)
from musix_runtime.bundle.part import Layout
from musix_runtime.errors import ManifestError


def check(manifest: Manifest, layout: Layout, path: Path) -> None:
    """Raise ManifestError unless the manifest is one of a bundle with this layout. `path` is for the message."""
    for key, value in layout.labels.items():
        if getattr(manifest, key) != value:
            raise ManifestError(f"{path}: {key}: expected {value}, found {getattr(manifest, key)}")
    if set(manifest.serving.blend) != set(manifest.components):
        expected, found = tuple(manifest.components), tuple(manifest.serving.blend)
        raise ManifestError(f"{path}: serving.blend: expected {expected}, found {found}")
    families = set(filter(str.isprintable, filter(None, manifest.families)))
    longest = max(map(len, manifest.families), default=0)
    if not 0 < len(families) == len(manifest.families) <= MAX_FAMILIES or longest > MAX_FAMILY_NAME:
        names = f"{MAX_FAMILIES} different names of at most {MAX_FAMILY_NAME} characters"
        raise ManifestError(f"{path}: families: expected 1 to {names}, found {manifest.families}")
    _check_recipe(manifest.provenance, path)
    _check_counts(manifest, layout, path)
    _check_indexes(manifest, layout, path)
    if _depth(manifest.quality) > MAX_DEPTH:
        raise ManifestError(f"{path}: quality: expected a depth of at most {MAX_DEPTH}, found more")
    expected_files, files = set(layout.files), set(manifest.files)
    if files != expected_files:
        missing, unknown = sorted(expected_files - files), sorted(files - expected_files)
        differences = f"{missing or 'none'} missing and {unknown or 'none'} unknown"
        raise ManifestError(f"{path}: files: expected those of the format, found {differences}")


def _check_recipe(provenance: Provenance, path: Path) -> None:
    text = provenance.recipe.encode()
    if len(text) > MAX_RECIPE_BYTES:
        expected = f"expected at most {MAX_RECIPE_BYTES:,} bytes"
        raise ManifestError(f"{path}: provenance.recipe: {expected}, found {len(text):,}")
    if (found := hashlib.sha256(text).hexdigest()) != provenance.recipe_sha256:
        expected = f"expected SHA-256 {provenance.recipe_sha256}"
        raise ManifestError(f"{path}: provenance.recipe: {expected}, found {found}")


def _check_counts(manifest: Manifest, layout: Layout, path: Path) -> None:
    for name, allowed in layout.counts.items():
        if manifest.size(name) not in allowed:
            raise ManifestError(f"{path}: counts: {name}: expected {allowed}, found {manifest.size(name):,}")
    if set(manifest.counts) != set(layout.counts):
        raise ManifestError(f"{path}: counts: expected {sorted(layout.counts)}, found {sorted(manifest.counts)}")


def _check_indexes(manifest: Manifest, layout: Layout, path: Path) -> None:
    if set(manifest.indexes) != set(layout.indexes):
        raise ManifestError(f"{path}: indexes: expected {sorted(layout.indexes)}, found {sorted(manifest.indexes)}")
    for name, info in manifest.indexes.items():
        ivf = 0 < info.nprobe <= info.nlist <= MAX_LISTS
        if not (ivf if info.kind == "ivf" else info.nlist == info.nprobe == 0):
            expected = f"1 to nlist of at most {MAX_LISTS:,} lists to search, or 0 of 0 for flat"
            raise ManifestError(f"{path}: indexes: {name}: expected {expected}, found {info}")


def _depth(value: Any) -> int:
    """Return how deep lists and objects of decoded JSON are nested, at most `MAX_DEPTH` + 1."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)]
        depth += bool(level)
    return depth
