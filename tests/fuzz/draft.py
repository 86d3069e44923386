"""A draft: a hostile bundle in memory, which is written with the right sizes and hashes."""

import copy
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from musix_runtime.bundle.manifest import MANIFEST, SIGNATURE
from tests.fuzz.bases import Base


class Draft:
    """A base bundle with changes. `manifest` is edited in place; `write` sets its `files`."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.manifest: dict[str, Any] = copy.deepcopy(base.manifest)
        self.changed: dict[str, bytes] = {}
        self.edit_text: Callable[[bytes], bytes] = lambda text: (
            text
        )  # changes the bytes of the manifest, after all other changes
        self.signature: bytes | Callable[[str], bytes] | None = None  # or a function from the digest to the signature
        self.trusted = False  # whether the bundle is opened with a trusted key

    def __getitem__(self, name: str) -> bytes:
        return self.changed[name] if name in self.changed else self.base.files[name]

    def __setitem__(self, name: str, content: bytes) -> None:
        self.changed[name] = content

    def array(self, name: str) -> NDArray[Any]:
        """Return a copy of an array."""
        return np.load(io.BytesIO(self[name])).copy()

    def set_array(self, name: str, array: NDArray[Any]) -> None:
        """Replace an array."""
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=array.dtype.hasobject)
        self[name] = buffer.getvalue()

    def write(self, folder: Path) -> list[str]:
        """Write the changed files to `folder`, a copy of the base. Return their names."""
        listed = self.manifest.get("files")
        for name, content in self.changed.items():
            entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            if isinstance(listed, dict) and isinstance(listed.setdefault(name, {}), dict):  # else it was mutated, too
                listed[name].update(entry)
        manifest = self.edit_text(_canonical(self.manifest))
        files = self.changed | {MANIFEST: manifest}
        if self.signature is not None:
            signature = self.signature
            files[SIGNATURE] = (
                signature if isinstance(signature, bytes) else signature(hashlib.sha256(manifest).hexdigest())
            )
        for name, content in files.items():
            (folder / name).unlink(missing_ok=True)
            (folder / name).write_bytes(content)
        return list(files)


def _canonical(manifest: dict[str, Any]) -> bytes:
    """Return the canonical form of the manifest, or for invalid content a similar form by Python's `json`."""
    try:
        return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2) + b"\n"
    except (UnicodeEncodeError, OverflowError, RecursionError, msgspec.MsgspecError):
        return json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n"
    except TypeError:  # keys that are no text, which cannot be sorted
        return json.dumps(manifest, indent=2).encode() + b"\n"
