"""Folders of arrays: how the parts keep themselves in a run, one `.npy` file an array. No pickle."""

from pathlib import Path
from typing import Any

import numpy as np


def save(path: Path, arrays: dict[str, Any]) -> None:
    """Write each array into a new folder, under its name."""
    path.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array, allow_pickle=False)


def load(path: Path) -> dict[str, Any]:
    """Read every array of a folder, by name."""
    return {file.stem: np.load(file, allow_pickle=False) for file in sorted(path.glob("*.npy"))}
