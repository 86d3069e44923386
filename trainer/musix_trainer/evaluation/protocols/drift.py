"""Drift alarms: how often they are right. Intervals are over the samples drawn."""

import numpy as np
from numpy.typing import NDArray

from musix_runtime.inspection import drift
from musix_runtime.models.arrays import Floats
from musix_runtime.models.features import AUDIO_NAMES
from musix_trainer import progress
from musix_trainer.evaluation.bootstrap import ClusteredMetric
from musix_trainer.evaluation.protocols import EvaluationContext, MetricCollector, Results

DRAWS = 200
FEW = 50  # tracks: what the bounds do when nobody asks how many there are
SHIFTED = "energy"
UPPER = 0.75  # of a shifted sample is above the catalogue's median, which is a KL divergence of 0.13 over two bins


def measure(context: EvaluationContext) -> dict[str, Results]:
    """catalogue/drift, where the catalogue has tracks for two samples."""
    count = len(context.full_run.catalogue.inputs)
    if count < 2 * drift.MIN_SAMPLES:
        progress.say(
            f"catalogue/drift: expected at least {2 * drift.MIN_SAMPLES} recordings, found {count}: not measured"
        )
        return {}
    return {"catalogue/drift": _drift(context)}


def _drift(context: EvaluationContext) -> Results:
    """Samples of the catalogue held against its other recordings, feature by feature. A false alarm is one at a sample
    of the same distribution; a shifted sample is simulated: it has too many of the recordings above median energy."""
    audio = np.ascontiguousarray(context.full_run.catalogue.inputs[:, : len(AUDIO_NAMES)])
    figures = MetricCollector()
    energy = AUDIO_NAMES.index(SHIFTED)
    above = audio[:, energy] > np.nanmedian(audio[:, energy])
    for number in range(context.seeds):
        rng = np.random.default_rng(context.seed(number))
        for size in (drift.MIN_SAMPLES, FEW):
            same = [rng.permutation(len(audio)) for _ in range(DRAWS)]
            figures.add(f"false_alarms_at_{size}", _alarms(audio, same, size))
        shifted = [_shifted(above, rng) for _ in range(DRAWS)]
        figures.add(f"caught_at_{drift.MIN_SAMPLES}_simulated", _alarms(audio[:, [energy]], shifted, drift.MIN_SAMPLES))
    return figures.results()


def _shifted(above: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """All rows in an order whose first 500 have the share `UPPER` of those above."""
    high, low = (rng.permutation(np.flatnonzero(each)) for each in (above, ~above))
    most = round(UPPER * drift.MIN_SAMPLES)
    rest = drift.MIN_SAMPLES - most
    return np.concatenate([high[:most], low[:rest], high[most:], low[rest:]])


def _alarms(audio: Floats, orders: list[NDArray[np.int64]], size: int) -> dict[str, ClusteredMetric]:
    """Whether each measure is above its bound, for the first `size` rows of each order against all others."""
    found = [
        drift.divergence(audio[order[size:], i], audio[order[:size], i])
        for order in (orders[i] for i in progress.steps("catalogue/drift", len(orders)))
        for i in range(audio.shape[1])
    ]
    clusters = np.repeat(np.arange(len(orders)), audio.shape[1])
    return {
        name: ClusteredMetric.mean(np.array([each[name] > bound for each in found]), clusters)
        for name, bound in drift.THRESHOLDS.items()
    }
