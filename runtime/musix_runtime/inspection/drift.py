"""Drift of audio features: whether their distribution differs between two catalogues by more than chance."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import Floats, Rows
from musix_runtime.models.features import AUDIO_NAMES

BINS = 20  # quantile bins of the reference, which has equally many tracks in each; one more bin is for missing values
MIN_SAMPLES = 500  # tracks in each catalogue: with fewer, chance alone exceeds the thresholds
# Equivalent for a small shift, where PSI is about twice the KL divergence and JS an eighth of it. In nats.
THRESHOLDS = {"KL": 0.1, "PSI": 0.2, "JS": 0.0125}


def drifted_features(reference: Floats, inputs: Floats) -> dict[str, float] | None:
    """Return the audio features whose KL divergence is above the threshold: name -> divergence in nats.

    Compares the columns of `inputs` (n, 12 or more) with those of `reference` (m, 12 or more). Returns None when either
    has fewer than `MIN_SAMPLES` rows.
    """
    if min(len(reference), len(inputs)) < MIN_SAMPLES:
        return None
    columns = ((name, divergence(reference[:, i], inputs[:, i])["KL"]) for i, name in enumerate(AUDIO_NAMES))
    return {name: kl for name, kl in columns if kl > THRESHOLDS["KL"]}


def divergence(reference: Floats, values: Floats) -> dict[str, float]:
    """Return measures of the difference between the distributions of `values` (n,) and `reference` (m,), in nats.

    KL: of the values from the reference (Kullback and Leibler 1951); PSI: the population stability index, KL in both
    directions (Jeffreys 1946); JS: Jensen-Shannon (Lin 1991). NaN is a missing value and has a bin of its own. Half a
    track is added to every bin, so that no measure is infinite (Krichevsky and Trofimov 1981).
    """
    edges = bin_edges(reference)
    before, after = _shares(reference, edges), _shares(values, edges)
    middle = (before + after) / 2
    return {
        "KL": _kl(after, before),
        "PSI": _kl(after, before) + _kl(before, after),
        "JS": (_kl(after, middle) + _kl(before, middle)) / 2,
    }


def bin_edges(reference: Floats) -> NDArray[Any]:
    """Return the edges between the quantile bins of `reference` (m,), ascending. Equal ones count once."""
    known = reference[~np.isnan(reference)]
    return np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1])) if len(known) else known


def bin_count(edges: NDArray[Any]) -> int:
    """Return the number of bins between, below and above the edges, and the one for missing values."""
    return len(edges) + 2


def bin_numbers(values: Floats, edges: NDArray[Any]) -> Rows:
    """Return the bin of each value (n,); NaN is in the last one."""
    missing = np.isnan(values)
    return np.where(missing, bin_count(edges) - 1, np.searchsorted(edges, values, side="right"))


def _shares(values: Floats, edges: NDArray[Any]) -> NDArray[np.float64]:
    """Return the share of the values in each bin."""
    counts = np.bincount(bin_numbers(values, edges), minlength=bin_count(edges)) + 0.5
    return np.asarray(counts / counts.sum())


def _kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Return the Kullback-Leibler divergence of `p` from `q`."""
    return float((p * np.log(p / q)).sum())
