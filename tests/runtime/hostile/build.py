"""Hostile variants of a valid bundle, with matching manifests."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np


def read_manifest(bundle: Path) -> dict:
    return json.loads((bundle / "manifest.json").read_bytes())


def write_manifest(bundle: Path, manifest: dict) -> None:
    """Write the manifest in canonical form, so that only the change is wrong."""
    encoded = msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2)
    (bundle / "manifest.json").write_bytes(encoded + b"\n")


def edit(bundle: Path, change: Callable[[dict], object]) -> None:
    """Change the manifest."""
    manifest = read_manifest(bundle)
    change(manifest)
    write_manifest(bundle, manifest)


def agree(bundle: Path, name: str) -> None:
    """Update size and hash of a file in the manifest, so that only its content can be wrong."""
    content = (bundle / name).read_bytes()
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(bundle, lambda manifest: manifest["files"].update({name: entry}))


def replace_array(bundle: Path, name: str, array: np.ndarray) -> None:
    """Replace an array, and its entry in the manifest."""
    np.save(bundle / name, array, allow_pickle=array.dtype.hasobject)
    agree(bundle, name)


def change_array(bundle: Path, name: str, change: Callable[[np.ndarray], object]) -> None:
    """Change an array in place, and its entry in the manifest."""
    array = np.load(bundle / name)
    change(array)
    replace_array(bundle, name, array)
