"""Tempo: the mean tempo of the tracks of each family, in beats per minute."""

from dataclasses import dataclass

from musix_runtime.bundle.part import Array, Part
from musix_runtime.models.arrays import Floats


@dataclass(frozen=True)
class Tempo:
    """Mean tempos. Shape (families,)."""

    means: Floats


PART = Part(
    name="tempo",
    load=lambda files: Tempo(files.array("means")),
    validate=lambda checks: checks.within("means", 0, 300),
    arrays={"means.npy": Array("<f4", ("families",))},
)
