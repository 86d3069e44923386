"""Calibration: whether a score of the bundle still means what it meant when the bundle was new."""

import numpy as np
import polars as pl

from musix_runtime.feedback.reports import CalibrationDrift
from musix_trainer.evaluation.bootstrap import ClusteredMetric, lower_bound
from musix_trainer.loop.comparison import Floats
from musix_trainer.loop.drift import LEVEL, MIN_LISTENERS, RESAMPLES

MAX_ERROR = 0.1
BINS = 10


def measure(reference: pl.DataFrame, live: pl.DataFrame) -> CalibrationDrift:
    """Compare scores of tracks with what happened to them.

    Both tables are user_id, score and liked: whether a track that was started was not skipped. A monotone map from
    score to the share that is liked is fitted on the reference; the error is that of its predictions for the live
    window, whose listeners are resampled. In both, each listener weighs the same.
    """
    from sklearn.isotonic import IsotonicRegression  # a second to import, for this function alone

    count = live["user_id"].n_unique()
    if min(count, reference["user_id"].n_unique()) < MIN_LISTENERS:
        return CalibrationDrift(None, None, count, live.height)
    share_of = IsotonicRegression(out_of_bounds="clip")
    liked = reference["liked"].to_numpy().astype(np.float64)
    share_of.fit(reference["score"].to_numpy(), liked, sample_weight=_weights(reference))
    expected = share_of.predict(live["score"].to_numpy())
    listener = np.unique(live["user_id"].to_numpy(), return_inverse=True)[1]
    metric = ClusteredMetric.calibration(expected, live["liked"].to_numpy(), listener, BINS, _weights(live))
    error, low = lower_bound(metric, RESAMPLES, LEVEL)
    return CalibrationDrift(float(error), float(low), count, live.height)


def _weights(tracks: pl.DataFrame) -> Floats:
    """Return the weights of tracks (n,), of which those of each listener add to 1."""
    return tracks.select(1 / pl.len().over("user_id")).to_series().to_numpy()
