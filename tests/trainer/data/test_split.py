from datetime import date

import numpy as np

from musix_trainer.data import split
from musix_trainer.data.interactions import Interactions
from musix_trainer.recipe import Split


def test_no_credited_artist_of_a_part_is_in_another() -> None:
    """Each track credits its primary artist and, one in ten, another one of any part."""
    rng = np.random.default_rng(0)
    artists = [[f"a{i % 100}", *([f"a{rng.integers(100)}"] if i % 10 == i // 100 else [])] for i in range(1000)]
    parts = split.assign_by_artist(artists, 0.1, 0.1, seed=3)
    credited = [
        {name for each, part in zip(artists, parts, strict=True) if part == wanted for name in each}
        for wanted in (split.TRAIN, split.VALIDATION, split.TEST)
    ]
    assert all(credited)
    assert credited[2].isdisjoint(credited[0] | credited[1])
    primary = {each[0] for each, part in zip(artists, parts, strict=True) if part == split.TEST}
    assert len(primary) == 10
    assert (parts == split.TEST).sum() == 100  # no track of a test artist is left out
    assert (parts == split.UNUSED).any()


def test_share_of_each_listener_is_held_out() -> None:
    listener = np.repeat([0, 1, 2], [10, 5, 1])
    data = Interactions(list("abc"), listener, np.arange(16), np.ones(16), np.zeros(16, np.int64))
    held_out = split.hold_out(data, 0.2, 0)
    assert np.bincount(listener[held_out], minlength=3).tolist() == [2, 1, 0]
    assert not np.array_equal(held_out, split.hold_out(data, 0.2, 1))


def test_split_by_time_tests_on_later_entries_and_validates_on_the_latest_before() -> None:
    """The date is 86400 s after 1970. The only entry of the third listener before it is among the latest."""
    last = np.array([10, 20, 30, 40, 86_400, 50, 60, 70, 90_000, 80])
    listener = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 2])
    data = Interactions(list("abc"), listener, np.arange(10), np.ones(10), last)
    parts = split.split_interactions(data, [], Split(by="time", validation=0.25, before=date(1970, 1, 2)), 0)
    assert np.flatnonzero(parts == split.TEST).tolist() == [4, 8]
    assert np.flatnonzero(parts == split.VALIDATION).tolist() == [7]
    assert parts[9] == split.TRAIN


def test_playlists_are_for_training_and_change_no_part_of_a_listener() -> None:
    listener = np.repeat(np.arange(6), 10)
    data = Interactions(list("abcdef"), listener, np.arange(60), np.ones(60), np.zeros(60, np.int64))
    playlists = Interactions(["p", "q"], np.repeat([0, 1], 5), np.arange(10), np.ones(10), np.ones(10, np.int64))
    for settings in (Split(), Split(by="leave_one_out"), Split(by="artist")):
        artists = [str(i // 3) for i in range(60)]
        parts = split.split_interactions(data.with_playlists(playlists), artists, settings, 0)
        assert parts[:60].tolist() == split.split_interactions(data, artists, settings, 0).tolist()
        assert (parts[60:] == split.TRAIN).all()
        assert (parts[:60] == split.TEST).any()
