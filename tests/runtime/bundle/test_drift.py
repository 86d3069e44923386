import math

import numpy as np
import pytest

from musix_runtime.inspection import drift
from musix_runtime.models.features import AUDIO_NAMES


def test_divergence_of_a_known_shift() -> None:
    """With three quarters of the values above the median, the divergences are known in closed form."""
    reference = np.arange(200_000, dtype=np.float32)
    moved = np.concatenate([np.repeat(reference[100_000:], 3), reference[:100_000]])
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    back = 0.5 * math.log(1 / 1.5) + 0.5 * math.log(2)
    js = (
        0.75 * math.log(0.75 / 0.625)
        + 0.25 * math.log(0.25 / 0.375)
        + 0.5 * math.log(0.5 / 0.625)
        + 0.5 * math.log(0.5 / 0.375)
    ) / 2
    result = drift.divergence(reference, moved)
    assert result == pytest.approx({"KL": kl, "PSI": kl + back, "JS": js}, abs=1e-3)


def test_divergence_counts_missing_values_in_their_own_bin() -> None:
    reference = np.ones(1000, np.float32)
    missing = np.where(np.arange(1000) % 2, np.nan, reference).astype(np.float32)
    assert drift.divergence(reference, reference)["KL"] == 0
    assert drift.divergence(reference, missing)["KL"] > drift.THRESHOLDS["KL"]
    nothing = np.full(1000, np.nan, np.float32)
    assert drift.divergence(nothing, nothing)["KL"] == 0
    assert drift.divergence(nothing, reference)["KL"] > drift.THRESHOLDS["KL"]


def test_drifted_features_needs_enough_samples() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random((2, 2000, len(AUDIO_NAMES)), np.float32)
    after[:, AUDIO_NAMES.index("tempo")] += 0.5
    result = drift.drifted_features(before, after)
    assert result is not None
    assert list(result) == ["tempo"]
    assert drift.drifted_features(before, before) == {}
    assert drift.drifted_features(before, after[: drift.MIN_SAMPLES - 1]) is None
