"""Declarations of the parts of an export. A part declares its converter and its comparisons once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_exporter.bundle_writer import PartWriter
from musix_runtime.bundle.part import Part as RuntimePart
from musix_runtime.engine import Engine
from musix_runtime.models.arrays import Floats
from musix_runtime.models.features import AUDIO, INPUTS
from musix_trainer.run import Run

PARITY_CASES = 512
PARITY_TOLERANCE = 1e-4


@dataclass(frozen=True)
class ParityInputs:
    """The run, the engine of its bundle, and the random inputs that the parity of the parts is measured on.

    All parts share the random generator, in their order.
    """

    run: Run
    engine: Engine
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @cached_property
    def tracks(self) -> tuple[Floats, list[list[str]], list[str]]:
        """Inputs (n, 15), artists and titles of random tracks of the catalogue, some with unknown artists or missing
        values, and of the ends of all ranges."""
        catalogue, rng = self.run.catalogue, self.rng
        rows = rng.integers(0, len(catalogue), PARITY_CASES)
        inputs = catalogue.inputs[rows].copy()
        inputs[rng.random(inputs.shape) < 0.02] = np.nan
        ends = [[feature.low for feature in INPUTS], [feature.high for feature in INPUTS], [np.nan] * len(INPUTS)]
        names, titles = catalogue.texts(rows)
        artists = [known if rng.random() < 0.7 else ["an artist that nobody knows"] for known in names]
        return np.vstack([inputs, np.array(ends, np.float32)]), [*artists, [], [], []], [*titles, "", "", ""]

    @property
    def audio(self) -> Floats:
        """Audio features of the same tracks. Shape (n, 12)."""
        return np.ascontiguousarray(self.tracks[0][:, : len(AUDIO)])


@dataclass(frozen=True)
class Part:
    """The export of a part of the bundle.

    `convert` writes the files that `runtime` declares. `parity` returns the largest absolute error of the converted
    model, compared with the native one; it must be at most `parity_tolerance`. `native` returns the native model with
    the interface of the runtime's model. It makes the responses of the golden cases, from which those of the bundle may
    differ by at most `golden_tolerance`.
    """

    runtime: RuntimePart[Any]
    convert: Callable[[Run, PartWriter], None]
    parity: Callable[[ParityInputs], float] | None = None
    parity_tolerance: float = PARITY_TOLERANCE
    native: Callable[[Run], Any] | None = None
    golden_tolerance: float | None = None

    @property
    def name(self) -> str:
        """The name of the part and its folder."""
        return self.runtime.name


def max_abs_error(native: NDArray[Any], converted: NDArray[Any]) -> float:
    """Return the largest absolute difference of two arrays."""
    return float(np.abs(native.astype(np.float64) - converted).max())
