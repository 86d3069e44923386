import numpy as np

from musix_trainer.data import split


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
