import numpy as np

from musix_runtime.models.features import AUDIO_NAMES
from musix_runtime.models.mood import MOODS
from musix_trainer.models import mood
from musix_trainer.run import Run

NEUTRAL = {
    "valence": 0.5,
    "energy": 0.5,
    "danceability": 0.5,
    "tempo": 120,
    "acousticness": 0.2,
    "instrumentalness": 0.1,
}


def audio(**values: float) -> np.ndarray:
    return np.array([[(NEUTRAL | values).get(name, 0.2) for name in AUDIO_NAMES]], np.float32)


def test_rule_thresholds() -> None:
    cases = {
        "happy": audio(valence=0.75, energy=0.75),
        "sad": audio(valence=0.3),
        "energetic": audio(energy=0.85, danceability=0.75),
        "calm": audio(tempo=90, acousticness=0.6),
        "focus": audio(instrumentalness=0.7, speechiness=0.05),
    }
    for name, features in cases.items():
        assert mood.rule(features)[0].tolist() == [name == each for each in MOODS]
    assert not mood.rule(audio()).any()
    assert mood.rule(audio(valence=0.8, energy=0.9, danceability=0.8))[0].tolist() == [True, False, True, False, False]


def test_network_agrees_with_the_rule(demo_run: Run) -> None:
    assert demo_run.quality["mood"]["rule_agreement"] > 0.95
    probabilities = demo_run.mood.probabilities(audio(valence=0.1, energy=0.3))
    assert MOODS[probabilities[0].argmax()] == "sad"


def test_missing_value_is_replaced_by_the_median(demo_run: Run) -> None:
    median = demo_run.mood.network.median.numpy()[None]
    np.testing.assert_array_equal(
        demo_run.mood.probabilities(np.full_like(median, np.nan)), demo_run.mood.probabilities(median)
    )
