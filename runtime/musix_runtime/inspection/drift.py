"""Drift: whether the sound of a catalogue moved away from that of another one, by more than chance."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import Floats
from musix_runtime.models.features import AUDIO_NAMES

BINS = 20  # in each of which the reference has as many tracks; one more holds the missing values
SAMPLES = 500  # tracks of either side, at least: among fewer, chance alone moves that many bins beyond the bounds
# Alike for a small shift, where PSI is about twice the KL divergence and JS an eighth of it; in nats.
BOUNDS = {"KL": 0.1, "PSI": 0.2, "JS": 0.0125}


def drifted(reference: Floats, inputs: Floats) -> dict[str, float] | None:
    """The audio features of `inputs` (n, 12 or more) that drifted from those of `reference` (m, 12 or more): by name,
    the KL divergence in nats, where it is above its bound. None when either side has fewer tracks than tell."""
    if min(len(reference), len(inputs)) < SAMPLES:
        return None
    columns = ((name, divergences(reference[:, i], inputs[:, i])["KL"]) for i, name in enumerate(AUDIO_NAMES))
    return {name: kl for name, kl in columns if kl > BOUNDS["KL"]}


def divergences(reference: Floats, values: Floats) -> dict[str, float]:
    """How far the distribution of `values` (n,) is from that of `reference` (m,), NaN where one is missing.

    KL: of the values from the reference (Kullback and Leibler 1951); PSI: the population stability index, KL both ways
    (Jeffreys 1946); JS: Jensen-Shannon (Lin 1991). Every bin counts half a track more than it has, so that none is
    infinite (Krichevsky and Trofimov 1981).
    """
    known = reference[~np.isnan(reference)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1])) if len(known) else known
    before, after = (_shares(each, edges) for each in (reference, values))
    middle = (before + after) / 2
    return {
        "KL": _kl(after, before),
        "PSI": _kl(after, before) + _kl(before, after),
        "JS": (_kl(after, middle) + _kl(before, middle)) / 2,
    }


def _shares(values: Floats, edges: NDArray[Any]) -> NDArray[np.float64]:
    missing = np.isnan(values)
    bins = np.where(missing, len(edges) + 1, np.searchsorted(edges, values, side="right"))
    counts = np.bincount(bins, minlength=len(edges) + 2) + 0.5
    return np.asarray(counts / counts.sum())


def _kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    return float((p * np.log(p / q)).sum())
