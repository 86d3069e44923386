"""Export of the content part: vectors of the tracks, and their index."""

import numpy as np

from musix_exporter import index
from musix_exporter.bundle_writer import PartWriter
from musix_exporter.part import ParityInputs, Part, max_abs_error
from musix_runtime.models import content
from musix_runtime.models.arrays import unit
from musix_trainer.run import Run


def convert(run: Run, writer: PartWriter) -> None:
    """Write the content part. Recall is measured with vectors of tracks and with profiles of listeners."""
    vectors, collab = run.content.vectors, run.collab
    tracks = vectors[index.sample(len(vectors))]
    listeners = index.sample(len(collab.listeners))
    histories = [collab.history_rows[slice(*collab.history_offsets[i : i + 2])] for i in listeners]
    profiles = unit(np.array([vectors[rows].mean(axis=0) for rows in histories]))
    queries = np.concatenate([tracks[::2], profiles[::2]])
    index.add("index", "vectors", vectors, queries, run.recipe, writer)


def _parity(inputs: ParityInputs) -> float:
    """Compare cosines by numpy with those of the index. An exact index must also return the nearest rows."""
    exact = inputs.engine.bundle.manifest.indexes["content/index.faiss"].kind == "flat"
    vectors, worst = inputs.run.content.vectors, 0.0
    for row in inputs.rng.integers(0, len(vectors), 32):
        native = vectors @ vectors[row]
        rows, cosines = inputs.engine.retriever.content.nearest(vectors[row], 50)
        worst = max(worst, max_abs_error(native[rows], cosines))
        if exact:
            worst = max(worst, max_abs_error(np.sort(native)[::-1][: len(rows)], cosines))
    return worst


PART = Part(
    content.PART,
    convert,
    parity=_parity,
    native=lambda run: run.content.runtime(),
    golden_tolerance=1e-5,  # scores have 6 digits: a little more than the rounding error
)
