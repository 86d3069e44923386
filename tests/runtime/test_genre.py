import numpy as np
import pytest

from musix_runtime import Engine
from musix_runtime.genre import artist_key
from tests.runtime.test_messages import FEATURES


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("The Beatles", "beatles"),
        ("Beyoncé", "beyonce"),
        ("AC/DC", "ac dc"),
        ("Simon &amp; Garfunkel", "simon and garfunkel"),
        ("椎名林檎", "椎名林檎"),
        ("MC 張天賦", "mc 張天賦"),
        ("джаз-оркестр", "джаз оркестр"),
        ("がくぶち", "がくぶち"),
        ("Theory", "theory"),
        ("!!!", ""),
    ],
)
def test_artist_key(name: str, key: str) -> None:
    assert artist_key(name) == key


def test_known_artists_are_averaged_and_unknown_ones_ignored(engine: Engine) -> None:
    first, second = "Simulated Artist 0001", "Simulated Artist 0002"
    mean, known = engine.genre.artist_inputs([[first, second, "nobody"], [first], ["nobody"], []])
    rows = engine.genre.artists.find([artist_key(first), artist_key(second)]) + 1
    np.testing.assert_allclose(mean[0], engine.genre.factors[rows].mean(axis=0), rtol=1e-6)
    assert known.ravel().tolist() == [1, 1, 0, 0]
    assert (mean[2:] == engine.genre.factors[0]).all()


def test_the_artist_sways_the_genre(engine: Engine) -> None:
    """A sound is heard more as the family of the artist it comes with; artists have the families in order."""

    def confidence(artist: str) -> np.ndarray:
        inputs = np.full((1, 15), np.nan, np.float32)
        inputs[0, :12] = list(FEATURES.values())
        return engine.genre.confidence(inputs, [[artist]])[0]

    for family in range(16):
        assert confidence(f"Simulated Artist {family:04d}")[family] > confidence("Nobody")[family]
