"""Drift protocol: rates of false and of true drift alarms. Intervals are over random samples."""

import numpy as np
from numpy.typing import NDArray

from musix_runtime.inspection import drift
from musix_runtime.models.arrays import Floats
from musix_runtime.models.features import AUDIO_NAMES
from musix_trainer import progress
from musix_trainer.evaluation.bootstrap import ClusteredMetric
from musix_trainer.evaluation.protocols import EvaluationContext, MetricCollector, Results

N_DRAWS = 200
SMALL_SAMPLE = 50  # tracks, fewer than the alarms are made for
SHIFTED = "energy"
UPPER_SHARE = 0.75  # of a shifted sample above the catalogue's median: a KL divergence of 0.13 over two bins


def measure(context: EvaluationContext) -> dict[str, Results]:
    """Run catalogue/drift, if the catalogue has tracks for two samples."""
    count = len(context.full_run.catalogue.inputs)
    if count < 2 * drift.MIN_SAMPLES:
        progress.say(
            f"catalogue/drift: expected at least {2 * drift.MIN_SAMPLES} recordings, found {count}: not measured"
        )
        return {}
    return {"catalogue/drift": _drift(context)}


def _drift(context: EvaluationContext) -> Results:
    """Compare samples of the catalogue with its other recordings, feature by feature.

    An alarm at a random sample is false. A shifted sample is simulated: it has too many recordings above the median
    energy.
    """
    audio = np.ascontiguousarray(context.full_run.catalogue.inputs[:, : len(AUDIO_NAMES)])
    collector = MetricCollector()
    energy = AUDIO_NAMES.index(SHIFTED)
    above = audio[:, energy] > np.nanmedian(audio[:, energy])
    for number in range(context.seeds):
        rng = np.random.default_rng(context.seed(number))
        for size in (drift.MIN_SAMPLES, SMALL_SAMPLE):
            same = [rng.permutation(len(audio)) for _ in range(N_DRAWS)]
            collector.add(f"false_alarms_at_{size}", _alarms(audio, same, size))
        shifted = [_shifted(above, rng) for _ in range(N_DRAWS)]
        size = drift.MIN_SAMPLES
        collector.add(f"caught_at_{size}_simulated", _alarms(audio[:, [energy]], shifted, size))
    return collector.results()


def _shifted(above: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return all rows in an order in which `UPPER_SHARE` of the first 500 are `above`."""
    high, low = (rng.permutation(np.flatnonzero(each)) for each in (above, ~above))
    n_high = round(UPPER_SHARE * drift.MIN_SAMPLES)
    n_low = drift.MIN_SAMPLES - n_high
    return np.concatenate([high[:n_high], low[:n_low], high[n_high:], low[n_low:]])


def _alarms(audio: Floats, orders: list[NDArray[np.int64]], size: int) -> dict[str, ClusteredMetric]:
    """Return whether each divergence of the first `size` rows of each order from the others is above its threshold."""
    divergences = [
        drift.divergence(audio[order[size:], i], audio[order[:size], i])
        for order in (orders[i] for i in progress.steps("catalogue/drift", len(orders)))
        for i in range(audio.shape[1])
    ]
    clusters = np.repeat(np.arange(len(orders)), audio.shape[1])
    return {
        name: ClusteredMetric.mean(np.array([each[name] > bound for each in divergences]), clusters)
        for name, bound in drift.THRESHOLDS.items()
    }
