"""Files of a bundle in the making: each in its place, arrays in the format's dtype and order."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musix_runtime.bundle.manifest import ARRAYS, LAYOUT


@dataclass(frozen=True)
class Files:
    """Writes below `root` what the format's layout names, and nothing else."""

    root: Path

    def place(self, name: str) -> Path:
        """The path of a file of the layout, its folder made. Raises KeyError for a name that the format has not."""
        if name not in LAYOUT:
            raise KeyError(f"{name} is not a file of the bundle format")
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        return path

    def add_bytes(self, name: str, content: bytes) -> None:
        """Write a file."""
        self.place(name).write_bytes(content)

    def add_array(self, name: str, array: NDArray[np.generic]) -> None:
        """Write an array, which must have the format's dtype already: a silent cast would hide a mistake."""
        path = self.place(name)
        expected = ARRAYS[name].dtype
        if expected not in (array.dtype.str, array.dtype.kind):
            raise TypeError(f"{name}: expected {expected}, found {array.dtype.str}")
        np.save(path, np.ascontiguousarray(array), allow_pickle=False)
