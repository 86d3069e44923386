import math

import numpy as np
import pytest

from musix_runtime.inspection import drift
from musix_runtime.models.features import AUDIO_NAMES


def test_the_divergences_of_a_known_shift() -> None:
    """Three quarters above the median instead of one half: the KL divergence is known in closed form."""
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
    found = drift.divergences(reference, moved)
    assert found == pytest.approx({"KL": kl, "PSI": kl + back, "JS": js}, abs=1e-3)


def test_missing_values_are_a_value_of_their_own() -> None:
    reference = np.ones(1000, np.float32)
    missing = np.where(np.arange(1000) % 2, np.nan, reference).astype(np.float32)
    assert drift.divergences(reference, reference)["KL"] == 0
    assert drift.divergences(reference, missing)["KL"] > drift.BOUNDS["KL"]
    nothing = np.full(1000, np.nan, np.float32)
    assert drift.divergences(nothing, nothing)["KL"] == 0
    assert drift.divergences(nothing, reference)["KL"] > drift.BOUNDS["KL"]


def test_only_what_moved_is_told_and_only_when_there_is_enough() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random((2, 2000, len(AUDIO_NAMES)), np.float32)
    after[:, AUDIO_NAMES.index("tempo")] += 0.5
    found = drift.drifted(before, after)
    assert found is not None
    assert list(found) == ["tempo"]
    assert drift.drifted(before, before) == {}
    assert drift.drifted(before, after[: drift.SAMPLES - 1]) is None
