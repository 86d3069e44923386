"""The protocol `lists` on a small simulated run, and its values on lists made by hand."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from musix_runtime.models.arrays import ABSENT
from musix_trainer.evaluation import evaluate
from musix_trainer.evaluation.protocols import lists


def test_lists_of_a_small_run_look_as_the_runtime_promises(small_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_folder, tmp_path / "small")
    results = evaluate.evaluate(folder, ("lists",), 1)["lists"]
    full = {name: each["value"] for name, each in results["full"].items()}
    assert full["stable"] == 1
    assert results["full"]["most_of_one_artist"]["value"] <= 3
    assert 10 / 3 < full["artists"] <= 10
    assert full["shared_with_another"] < results["full"]["shared_with_another"]["baselines"]["popularity"]
    assert results["full"]["never_heard"]["baselines"]["popularity"] == 0
    popularity = results["full"]["popularity"]["baselines"]
    assert popularity["popularity"] > popularity["history"] > 0.5  # popular tracks are in more histories
    assert 0.1 <= full["same_first_reason"] <= full["heard_reason"] <= 1
    current = results["current_track"]
    assert 0 < current["unchanged"]["value"] < 1
    genre = current["genre_of_current_track"]
    assert genre["better_by"]["without_current_track"]["low"] > 0


def test_share_of_a_list_that_others_get() -> None:
    """The first two listeners get the same list, the third one half of it."""
    same, half = np.arange(10), np.concatenate([np.arange(5), np.arange(100, 105)])
    assert lists.shared_with_others([same, same, half], 0) == pytest.approx([0.75, 0.75, 0.5])
    assert lists.shared_with_others([same], 0) == [0]


def test_most_frequent_artist_or_reason_is_counted() -> None:
    assert lists.most_frequent(np.array([3, 3, 7, ABSENT, ABSENT, ABSENT])) == 2
    assert lists.most_frequent(np.array([ABSENT, ABSENT])) == 0


def test_share_of_tracks_with_a_genre_of_the_current_one() -> None:
    families = np.array([0b01, 0b11, 0b10, 0b100], np.uint32)
    assert lists.genre_agreement(families, 0, np.array([1, 2, 3])) == pytest.approx(1 / 3)
    assert lists.genre_agreement(families, 1, np.array([0, 2])) == 1
