"""Parity: how far the bundle's answers are from those of the native models it was made of."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.engine import Engine
from musix_runtime.errors import ParityError
from musix_runtime.models.arrays import Floats
from musix_runtime.models.features import AUDIO, INPUTS
from musix_runtime.models.ranker import COMPONENTS
from musix_trainer.run import Run

TOLERANCE = 1e-4
CASES = 512


def measure(run: Run, engine: Engine) -> dict[str, float]:
    """Largest absolute error of each part. Raises ParityError when one is above 1e-4."""
    rng = np.random.default_rng(0)
    tracks = inputs, *_ = _tracks(run, rng)
    audio = np.ascontiguousarray(inputs[:, : len(AUDIO)])
    errors = {
        "genre": _largest(run.genre.confidence(*tracks), engine.genre.confidence(*tracks)),
        "mood": _largest(run.mood.probabilities(audio), engine.mood.probabilities(audio)),
        "collab": _collab(run, engine, rng),
        "content": _content(run, engine, rng),
        "ranker": _ranker(run, engine, rng),
    }
    wrong = {part: error for part, error in errors.items() if not error <= TOLERANCE}
    if wrong:
        raise ParityError(f"{run.recipe.label}: expected every error at most {TOLERANCE}, found {wrong}")
    return errors


def _tracks(run: Run, rng: np.random.Generator) -> tuple[Floats, list[list[str]], list[str]]:
    """Tracks of the catalogue, some with unknown artists or missing values, and all ends of the ranges: inputs, artists
    and titles."""
    rows = rng.integers(0, len(run.catalogue), CASES)
    inputs = run.catalogue.inputs[rows].copy()
    inputs[rng.random(inputs.shape) < 0.02] = np.nan
    ends = np.array([[each.low for each in INPUTS], [each.high for each in INPUTS], [np.nan] * len(INPUTS)], np.float32)
    names, titles = run.catalogue.texts(rows)
    artists = [each if rng.random() < 0.7 else ["an artist that nobody knows"] for each in names]
    return np.vstack([inputs, ends]), [*artists, [], [], []], [*titles, "", "", ""]


def _collab(run: Run, engine: Engine, rng: np.random.Generator) -> float:
    """LightFM's own scores against products of the listener's factors with those in the index."""
    collab = engine.retriever.collab
    places = rng.integers(0, len(collab.rows), CASES)
    worst = 0.0
    for listener in rng.integers(0, len(collab.listener_factors), 16):
        factors = collab.listener_factors[listener]
        scores = collab.index.vectors(places) @ np.append(factors[:-1], np.float32(1)) + factors[-1]
        worst = max(worst, _largest(run.collab.native_scores(np.full(CASES, listener), places), scores))
    return worst


def _content(run: Run, engine: Engine, rng: np.random.Generator) -> float:
    """Cosines by numpy against those of the index; where it is exact, its rows must be the nearest ones."""
    exact = engine.bundle.manifest.indexes["content/index.faiss"].kind == "flat"
    worst = 0.0
    for row in rng.integers(0, len(run.catalogue), 32):
        query = run.content.vectors[row]
        native = run.content.vectors @ query
        rows, cosines = engine.retriever.content.nearest(query, 50)
        worst = max(worst, _largest(native[rows], cosines))
        if exact:
            worst = max(worst, _largest(np.sort(native)[::-1][: len(rows)], cosines))
    return worst


def _ranker(run: Run, engine: Engine, rng: np.random.Generator) -> float:
    worst = 0.0
    for hour in (*range(24), np.nan):
        components = rng.random((1, CASES // 8, len(COMPONENTS)), np.float32)
        context = np.array([[rng.integers(0, 500), hour]], np.float32)
        native, converted = (each.scores(components, context) for each in (run.ranker.runtime(), engine.ranker))
        worst = max(worst, _largest(native, converted))
    return worst


def _largest(native: NDArray[Any], converted: NDArray[Any]) -> float:
    return float(np.abs(native.astype(np.float64) - converted).max())
