"""Parity: the largest error of each converted model, compared with the native model."""

from collections.abc import Sequence

from musix_exporter.part import ParityInputs, Part
from musix_exporter.parts import PARTS
from musix_runtime.engine import Engine
from musix_runtime.errors import ParityError
from musix_trainer.run import Run


def measure(run: Run, engine: Engine, parts: Sequence[Part] = PARTS) -> dict[str, float]:
    """Return the largest absolute error of each part that measures one. Raises ParityError above a tolerance."""
    inputs = ParityInputs(run, engine)
    errors = {part.name: part.parity(inputs) for part in parts if part.parity}
    allowed = {part.name: part.parity_tolerance for part in parts}
    wrong = {name: error for name, error in errors.items() if not error <= allowed[name]}
    if wrong:
        limits = " or ".join(f"{limit:g}" for limit in sorted({allowed[name] for name in wrong}))
        raise ParityError(f"{run.recipe.label}: expected every error at most {limits}, found {wrong}")
    return errors
