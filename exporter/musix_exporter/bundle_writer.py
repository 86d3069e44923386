"""Writer of the files of a bundle. It checks the names and dtypes, and collects the sizes of named dimensions."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musix_runtime.bundle.manifest import Dim, IndexInfo
from musix_runtime.bundle.part import Layout


@dataclass(frozen=True)
class BundleWriter:
    """Writes the files of the layout below `root`, and no others.

    `counts` has the sizes of the named dimensions of the arrays written so far, `indexes` the descriptions of the
    indexes written so far.
    """

    root: Path
    layout: Layout
    counts: dict[str, int] = field(default_factory=dict)
    indexes: dict[str, IndexInfo] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """Return the path of a file and make its folder. Raises KeyError for a name that is not in the layout."""
        if name not in self.layout.files:
            raise KeyError(f"{name} is not a file of the bundle format")
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        return path

    def add_bytes(self, name: str, content: bytes) -> None:
        """Write a file."""
        self.path(name).write_bytes(content)

    def add_array(self, name: str, array: NDArray[np.generic]) -> None:
        """Write an array. Raises TypeError unless it has the declared dtype: a silent cast would hide a mistake.

        Raises ValueError when a dimension has a different size in an earlier array.
        """
        path = self.path(name)
        expected = self.layout.arrays[name]
        if expected.dtype not in (array.dtype.str, array.dtype.kind):
            raise TypeError(f"{name}: expected {expected.dtype}, found {array.dtype.str}")
        for dim, size in zip(expected.shape, array.shape, strict=True):
            self._count(name, dim, size)
        np.save(path, np.ascontiguousarray(array), allow_pickle=False)

    def _count(self, name: str, dim: Dim, size: int) -> None:
        """Record the size of a dimension. The number of families is not among the counts."""
        if isinstance(dim, int):
            return
        count, _, plus = dim.partition("+")
        if count not in self.layout.counts:
            return
        size -= int(plus or 0)
        if self.counts.setdefault(count, size) != size:
            raise ValueError(f"{name}: expected {count} to be {self.counts[count]:,}, found {size:,}")


@dataclass(frozen=True)
class PartWriter:
    """Writes the files of the part `part`. Names are relative to its folder."""

    part: str
    bundle: BundleWriter

    def add_bytes(self, name: str, content: bytes) -> None:
        """Write a file."""
        self.bundle.add_bytes(f"{self.part}/{name}", content)

    def add_array(self, name: str, array: NDArray[np.generic]) -> None:
        """Write the array `name`.npy: see `BundleWriter.add_array`."""
        self.bundle.add_array(f"{self.part}/{name}.npy", array)
