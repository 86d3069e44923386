"""Export of the collab part: factors and histories as arrays, and an index of the factors of the tracks."""

import numpy as np

from musix_exporter import index
from musix_exporter.bundle_writer import PartWriter
from musix_exporter.part import PARITY_CASES, ParityInputs, Part, max_abs_error
from musix_runtime.models import collab
from musix_trainer.run import Run

TRACK_FACTORS = "track_factors"


def convert(run: Run, writer: PartWriter) -> None:
    """Write the collab part: the arrays of the model under their own names, and the index of the track factors."""
    model = run.collab
    for name, array in vars(model).items():
        if name != TRACK_FACTORS:  # which `index.add` writes
            writer.add_array(name, array)
    queries = np.array(model.listener_factors[index.sample(len(model.listeners))])
    queries[:, -1] = 1
    index.add("index", TRACK_FACTORS, model.track_factors, queries, run.recipe, writer)


def _parity(inputs: ParityInputs) -> float:
    """Compare LightFM's own scores with the inner products of listener factors and indexed track factors."""
    model, rng = inputs.engine.retriever.collab, inputs.rng
    positions = rng.integers(0, len(model.rows), PARITY_CASES)
    worst = 0.0
    for listener in rng.integers(0, len(model.listener_factors), 16):
        factors = model.listener_factors[listener]
        scores = model.index.vectors(positions) @ np.append(factors[:-1], np.float32(1)) + factors[-1]
        native = inputs.run.collab.native_scores(np.full(PARITY_CASES, listener), positions)
        worst = max(worst, max_abs_error(native, scores))
    return worst


PART = Part(
    collab.PART,
    convert,
    parity=_parity,
    native=lambda run: run.collab.runtime(),
    golden_tolerance=1e-5,  # scores have 6 digits: a little more than the rounding error
)
