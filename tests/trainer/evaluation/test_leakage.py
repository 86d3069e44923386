from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from musix_runtime.errors import EvaluationError, LeakError
from musix_runtime.models.features import INPUT_NAMES
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation import leakage
from musix_trainer.run import Run

DURATION = INPUT_NAMES.index("duration_ms")
INTERACTIONS = Interactions(
    ["a", "b"], np.array([0, 0, 1, 1]), np.array([1, 2, 2, 3]), np.ones(4), np.zeros(4, np.int64)
)
TRAIN, TEST = (INTERACTIONS.select(np.array(mask)) for mask in ([True, False, True, False], [False, True, False, True]))


def test_recording_in_both_parts_under_another_id_is_reported(demo_run: Run) -> None:
    catalogue = demo_run.catalogue
    train, test = np.arange(0, 100), np.arange(100, 200)
    leakage.check_recordings(catalogue, train, test)
    titles = catalogue.frame["track_name"].to_list()
    artists = catalogue.frame["artists"].to_list()
    titles[150], artists[150] = f"{titles[3].upper()} (Remastered)", artists[3]
    frame = catalogue.frame.with_columns(track_name=pl.Series(titles), artists=pl.Series(artists))
    inputs = catalogue.inputs.copy()
    inputs[150, DURATION] = inputs[3, DURATION] + 2_900
    with pytest.raises(LeakError, match="found 1 of 100 test rows whose recording is in training, such as"):
        leakage.check_recordings(replace(catalogue, frame=frame, inputs=inputs), train, test)
    inputs = catalogue.inputs.copy()
    inputs[160, :12] = inputs[5, :12]
    with pytest.raises(LeakError, match="expected no recording in both training and test, found 1 of 100"):
        leakage.check_recordings(replace(catalogue, inputs=inputs), train, test)


def test_artist_in_both_parts_is_reported() -> None:
    leakage.check_artists(["x", "y", "x", "z"], np.array([0, 2]), np.array([1, 3]))
    with pytest.raises(LeakError, match="found 1 of 2 test rows whose artist is in training, such as 'x'"):
        leakage.check_artists(["x", "y", "x", "z"], np.array([0, 1]), np.array([2, 3]))


def test_credited_artist_in_both_parts_is_reported() -> None:
    artists = [["x"], ["y"], ["x", "v"], ["z", "w"]]
    leakage.check_credited_artists(artists, np.array([0, 2]), np.array([1, 3]))
    with pytest.raises(LeakError, match="found 1 credits of 2 test rows whose artist is in training, such as 'x'"):
        leakage.check_credited_artists(artists, np.array([0, 1]), np.array([2, 3]))
    with pytest.raises(LeakError, match="such as 'v'"):
        leakage.check_credited_artists([["a", "v"], ["v"]], np.array([0]), np.array([1]))


def test_pair_in_both_parts_is_reported() -> None:
    leakage.check_held_out(TRAIN, TEST)
    with pytest.raises(LeakError, match="found 1 of 2, such as listener 'b'"):
        leakage.check_held_out(INTERACTIONS.select(np.array([True, False, True, True])), TEST)
    with pytest.raises(EvaluationError, match="expected held-out interactions, found none"):
        leakage.check_held_out(TRAIN, INTERACTIONS.select(np.zeros(4, bool)))


def test_listener_in_both_parts_is_reported() -> None:
    first, second = (INTERACTIONS.select(INTERACTIONS.listener == listener) for listener in (0, 1))
    leakage.check_listeners(first, second)
    with pytest.raises(LeakError, match="expected no listener in both training and test, found 1, such as 'b'"):
        leakage.check_listeners(INTERACTIONS, second)


def test_training_after_the_test_is_reported() -> None:
    times = replace(INTERACTIONS, last=np.array([10, 20, 15, 30]))
    leakage.check_times(times.select(times.last < 20), times.select(times.last >= 20))
    with pytest.raises(LeakError, match="found 1 of 2 others, such as one of listener 'a'"):
        leakage.check_times(times.select(np.array([True, True, False, False])), times.select(times.last == 15))


def test_held_out_track_in_training_is_reported() -> None:
    leakage.check_unheard(TRAIN, np.array([0, 3]))
    with pytest.raises(LeakError, match="found some with 1 of 2, such as row 2"):
        leakage.check_unheard(TRAIN, np.array([2, 3]))


def test_relevance_from_a_prediction_is_reported() -> None:
    leakage.check_relevance({0: {2}, 1: {3}}, TEST)
    predicted = {0: {2, 7}, 1: {3}}
    with pytest.raises(LeakError, match=r"listener 'a': .* found 1 of 2 other tracks: relevance from a prediction"):
        leakage.check_relevance(predicted, TEST)
    for empty in ({}, {0: set()}):
        with pytest.raises(EvaluationError, match="expected relevant tracks for every listener"):
            leakage.check_relevance(empty, TEST)


def test_baseline_with_fewer_trials_is_refused() -> None:
    leakage.check_trials({"collab": 20, "EASE": 20}, "collab", ["EASE"])
    with pytest.raises(EvaluationError, match="have the 20 trials that collab had, found EASE: 19, iALS: 0"):
        leakage.check_trials({"collab": 20, "EASE": 19}, "collab", ["EASE", "iALS"])
