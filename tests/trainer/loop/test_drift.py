"""Drift and calibration on listening whose right answer is known: none, planted, or counted by hand."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from musix_runtime import Engine
from musix_runtime.feedback.reports import DRIFT_INPUTS, CalibrationDrift, InputDrift
from musix_runtime.models.catalog import Catalog
from musix_runtime.models.features import AUDIO_NAMES
from musix_trainer.loop import calibration, drift
from musix_trainer.loop.drift import MAX_KL, MIN_LISTENERS, Profiles, genre_and_mood_shares, track_bins
from perf.monitoring import energetic, tastes

POPULATION, PLAYS = 1000, 20
WEEKS = 1000
ENERGY = AUDIO_NAMES.index("energy")


@pytest.fixture(scope="module")
def engine(small_bundle: Path) -> Engine:
    return Engine.open(small_bundle)


class Listening:
    """Simulated listeners with tastes of their own, and windows of what some of them played."""

    def __init__(self, engine: Engine, plays: int = PLAYS, shared: float = 0.5) -> None:
        self.catalog = engine.catalog
        self.plays = plays  # of each listener in a window
        self.shared = shared  # share of the listeners of a window who are in the other one as well
        self.random = np.random.default_rng(1)
        self.tastes = tastes(engine, POPULATION, self.random)
        self.energetic = energetic(engine)

    @cached_property
    def bins(self) -> drift.TrackBins:
        return track_bins(self.catalog, np.arange(len(self.catalog)))

    def weights(self, listeners: np.ndarray, of: slice, count: int, moved: float = 0.0) -> sparse.csr_array:
        """Return the weights of tracks in what some of `count` listeners played: those at the places `of`."""
        chances = (1 - moved) * self.tastes[listeners[of]] + moved * self.energetic
        first = np.arange(len(chances))[:, None]
        ends = (chances.cumsum(axis=1) + first).ravel()
        places = np.searchsorted(ends, first + self.random.random((len(chances), self.plays)) * (1 - 1e-9))
        rows = np.minimum(places, len(ends) - 1).ravel() % chances.shape[1]
        listener = np.repeat(np.arange(count)[of], self.plays)
        return sparse.csr_array((np.full(len(rows), 1 / self.plays), (listener, rows)), shape=(count, chances.shape[1]))

    def windows(self, each: int, moved: float = 0.0) -> tuple[sparse.csr_array, sparse.csr_array]:
        """Return the weights of the reference and a live week of `each` listeners."""
        count = 2 * each - round(self.shared * each)
        listeners = self.random.permutation(POPULATION)[:count]
        before = self.weights(listeners, slice(0, each), count)
        return before, self.weights(listeners, slice(count - each, count), count, moved)

    def week(self, each: int, moved: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Return the KL divergence of each input in a live week, and its lower bound."""
        shares = [(weights @ self.bins.shares).toarray() for weights in self.windows(each, moved)]
        return drift.divergences(*shares, self.bins.starts)

    def measure(self, each: int, moved: float = 0.0) -> dict[str, InputDrift]:
        """Return the drift of each input in a live week."""
        rows = np.arange(len(self.catalog))
        return drift.measure(self.catalog, *self.windows(each, moved), self.bins, rows)

    def scores(self, each: int, disliked: float = 0.0) -> CalibrationDrift:
        """Return the calibration of a live week of `each` listeners, who like fewer tracks than before."""
        return calibration.measure(self.outcomes(each, 0), self.outcomes(each, disliked))

    def outcomes(self, each: int, disliked: float) -> pl.DataFrame:
        user, score = np.repeat(np.arange(each), PLAYS), self.random.random(each * PLAYS)
        chance = 0.4 + 0.5 * score - disliked + np.repeat(self.random.normal(0, 0.1, each), PLAYS)
        return pl.DataFrame({"user_id": user, "score": score, "liked": self.random.random(len(user)) < chance})


def wrong_scores(found: CalibrationDrift) -> bool:
    return found.low is not None and found.low > calibration.MAX_ERROR


def test_a_thousand_quiet_weeks_of_few_listeners_with_one_play_each(engine: Engine) -> None:
    """The hardest case: as few listeners and plays as may be, and no listener in both windows."""
    listening = Listening(engine, plays=1, shared=0)
    lows = np.array([listening.week(MIN_LISTENERS)[1] for _ in range(WEEKS)])
    assert (lows > MAX_KL).any(axis=1).sum() <= WEEKS / 100


def test_without_drift_the_divergence_is_about_zero(engine: Engine) -> None:
    listening = Listening(engine)
    weeks = [listening.week(MIN_LISTENERS) for _ in range(100)]
    assert abs(np.mean([kl for kl, _ in weeks], axis=0)).max() < 0.01
    assert max(low.max() for _, low in weeks) < MAX_KL


def test_scores_of_a_thousand_quiet_weeks(engine: Engine) -> None:
    listening = Listening(engine)
    weeks = [listening.scores(MIN_LISTENERS) for _ in range(WEEKS)]
    assert sum(map(wrong_scores, weeks)) <= WEEKS / 100


def test_a_planted_shift_is_found(engine: Engine) -> None:
    listening = Listening(engine)
    lows = [listening.week(200, moved=0.3)[1][ENERGY] for _ in range(100)]
    assert sum(low > MAX_KL for low in lows) >= 80


def test_scores_that_promise_too_much_are_found(engine: Engine) -> None:
    listening = Listening(engine)
    weeks = [listening.scores(200, disliked=0.2) for _ in range(100)]
    assert sum(map(wrong_scores, weeks)) >= 80
    assert np.mean([week.error for week in weeks]) == pytest.approx(0.2, abs=0.02)


def test_kl_of_shares_that_are_counted_by_hand() -> None:
    """Two inputs with two bins each, of which only the first differs."""
    live = np.tile([0.5, 0.5, 0.25, 0.75], (5000, 1))
    reference = np.tile([0.25, 0.75, 0.25, 0.75], (5000, 1))
    kl, low = drift.divergences(reference, live, np.array([0, 2]))
    expected = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert kl == pytest.approx([expected, 0], abs=1e-3)
    assert low == pytest.approx(kl, abs=1e-9)  # the listeners are alike


def test_too_few_listeners_are_not_compared(engine: Engine) -> None:
    listening = Listening(engine)
    assert listening.measure(MIN_LISTENERS - 1) == dict.fromkeys(DRIFT_INPUTS, InputDrift(None, None, None))
    assert listening.scores(MIN_LISTENERS - 1) == CalibrationDrift(None, None, 49, 49 * PLAYS)


def plays(*pairs: tuple[str, int]) -> pl.DataFrame:
    return pl.DataFrame(pairs, schema={"user_id": pl.String, "row": pl.Int64}, orient="row")


def test_each_listener_weighs_the_same() -> None:
    """ann plays three tracks of each of two, bob one; eve is in the second window only."""
    before = plays(*[("ann", 5)] * 3, ("ann", 7), ("bob", 9))
    profiles = Profiles.of([before, plays(("eve", 9))])
    first, second = (weights.toarray() for weights in profiles.weights)
    assert profiles.rows.tolist() == [5, 7, 9]
    assert first.tolist() == [[0.75, 0.25, 0], [0, 0, 1], [0, 0, 0]]
    assert second.tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_windows_without_plays() -> None:
    profiles = Profiles.of([plays(), plays()])
    assert [weights.shape for weights in profiles.weights] == [(0, 0), (0, 0)]


def energies(catalog: Catalog) -> tuple[int, int]:
    """Return two rows with different energies."""
    energy = catalog.inputs[:, ENERGY]
    return int(np.nanargmin(energy)), int(np.nanargmax(energy))


def test_distance_in_standard_deviations_of_the_reference(engine: Engine) -> None:
    """The reference has two tracks in equal parts, the live week only the first: half of it has moved by two standard
    deviations."""
    low, high = energies(engine.catalog)
    users = [f"user {i}" for i in range(100)]
    before = plays(*((user, row) for user in users for row in (low, high)))
    profiles = Profiles.of([before, plays(*((user, low) for user in users))])
    found = drift.measure(engine.catalog, *profiles.weights, track_bins(engine.catalog, profiles.rows), profiles.rows)
    assert found["energy"].wasserstein == pytest.approx(1)
    assert found["energy"].low == pytest.approx(np.log(2), abs=0.3)
    assert found["key"].wasserstein is None


def test_bins_of_tracks(engine: Engine) -> None:
    """Each track is in one bin of each input, or divided among its genres; a missing value is in the last bin."""
    catalog = engine.catalog
    found = track_bins(catalog, np.arange(len(catalog)))
    for name in DRIFT_INPUTS:
        assert found.shares[:, [*range(*found.columns(name).indices(10**6))]].sum(axis=1) == pytest.approx(1)
    inputs = catalog.inputs.copy()
    inputs[3, ENERGY] = np.nan
    missing = track_bins(replace(catalog, inputs=inputs), np.array([3]))
    assert missing.shares.toarray()[0, missing.columns("energy")].tolist()[-1] == 1


def test_shares_of_genres_and_moods(engine: Engine) -> None:
    row, *_ = np.flatnonzero(engine.catalog.families).tolist()
    profiles = Profiles.of([plays(("ann", row)), plays()])
    bins = track_bins(engine.catalog, profiles.rows)
    shares, nothing = (genre_and_mood_shares(weights, bins) for weights in profiles.weights)
    assert set(shares.genres) == set(engine.catalog.genre_names(int(engine.catalog.families[row])))
    assert sum(shares.genres.values()) == pytest.approx(1)
    assert sorted(shares.moods.values()) == [0, 0, 0, 0, 1]
    assert nothing.genres == {}
