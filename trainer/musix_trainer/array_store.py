"""Folders of arrays, one `.npy` file for each, in which the parts of a run are stored. No pickle."""

from pathlib import Path
from typing import Any

import numpy as np


def save(path: Path, arrays: dict[str, Any]) -> None:
    """Write each array into a new folder, as NAME.npy."""
    path.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array, allow_pickle=False)


def load(path: Path) -> dict[str, Any]:
    """Return every array of a folder, by name."""
    return {file.stem: np.load(file, allow_pickle=False) for file in sorted(path.glob("*.npy"))}
