import numpy as np

from musix_runtime.models.features import AUDIO_NAMES
from musix_runtime.models.mood import MOODS
from musix_trainer import recipe
from musix_trainer.data import split
from musix_trainer.data.moods import PERCEIVED, Moods
from musix_trainer.evaluation import metrics
from musix_trainer.models import mood
from musix_trainer.models.mood_targets import FOCUS_LIMITS, perceived_examples, quadrants, rule, soft_rule, with_focus
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
        assert rule(features)[0].tolist() == [name == each for each in MOODS]
    assert not rule(audio()).any()
    assert rule(audio(valence=0.8, energy=0.9, danceability=0.8))[0].tolist() == [True, False, True, False, False]


def catalogue(count: int = 2000) -> np.ndarray:
    """Return random features: a fifth of the tracks is sad by the rule, a fifth has no mood, the others are several."""
    rng = np.random.default_rng(0)
    features = np.repeat(audio(), count, axis=0)
    for name in ("valence", "energy", "danceability", "acousticness", "instrumentalness"):
        features[:, AUDIO_NAMES.index(name)] = rng.random(count)
    return features


def test_soft_rule_of_a_track_without_any_mood_is_the_shares_of_the_catalogue() -> None:
    features = np.vstack([audio(valence=0.1), audio(valence=0.1), audio(valence=0.9, energy=0.9), audio(valence=0.6)])
    lonely = soft_rule(features)[3]
    np.testing.assert_allclose(lonely, [2 / 8, 3 / 8, 1 / 8, 1 / 8, 1 / 8], atol=0.01)  # counts of 1, 2 plus 1 each


def test_soft_rule_chooses_a_mood_of_the_rule_and_shares_between_several() -> None:
    features = catalogue()
    moods, probabilities = rule(features), soft_rule(features)
    some = moods.any(axis=1)
    assert moods[some, probabilities[some].argmax(axis=1)].mean() > 0.99
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    both = soft_rule(np.vstack([features, audio(valence=0.1, tempo=60, acousticness=0.9)]))[-1]
    assert both[MOODS.index("sad")] > 0.4
    assert both[MOODS.index("calm")] > 0.4


def test_focus_is_limited_and_hides_no_clear_mood() -> None:
    instrumental = audio(instrumentalness=0.95, speechiness=0.02)
    clear, unclear = with_focus(np.array([[0.9, 0.1, 0, 0], [0.4, 0.2, 0.2, 0.2]], np.float32), instrumental[[0, 0]])
    assert clear[4] == unclear[4] == np.float32(FOCUS_LIMITS["perceived"])
    assert MOODS[clear.argmax()] == "happy"
    assert MOODS[unclear.argmax()] == "focus"


def test_quadrants_of_valence_and_energy() -> None:
    corners = [audio(valence=v, energy=e) for v, e in ((0.9, 0.9), (0.1, 0.1), (0.1, 0.9), (0.9, 0.1))]
    instrumental = audio(valence=0.1, energy=0.1, instrumentalness=0.9)
    shares = quadrants(np.vstack([*corners, audio(), instrumental]))
    assert [PERCEIVED[each] for each in shares[:4].argmax(axis=1)] == ["happy", "sad", "energetic", "calm"]
    assert PERCEIVED[shares[5].argmax()] == "calm"
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)


def planted(features: np.ndarray) -> Moods:
    """Return moods by danceability and tempo, which neither the rule nor the quadrants of valence and energy know."""
    dance = features[:, AUDIO_NAMES.index("danceability")]
    acoustic = features[:, AUDIO_NAMES.index("acousticness")]
    number = 2 * (dance > 0.5) + (acoustic > 0.5)
    part = np.array([split.TRAIN, split.TRAIN, split.VALIDATION, split.TEST], np.int8)[np.arange(len(features)) % 4]
    shares = np.eye(4, dtype=np.float32)[number]
    return Moods(["people"], np.arange(len(features)), shares, np.zeros(len(features), np.int64), part)


def test_examples_have_equal_weights_of_sources_and_moods() -> None:
    features = catalogue()
    moods = planted(features)
    rare = moods.shares.argmax(axis=1) == 0
    few = np.flatnonzero(~rare | (np.arange(len(rare)) < 40))
    moods = Moods(["people"], moods.row[few], moods.shares[few], moods.source[few], moods.part[few])
    train, validation = perceived_examples(features, moods, 4000, 0.2, 0)
    assert (len(train.rows), len(validation.rows)) == (8000, 1600)
    people = mood.perceived_shares(train.targets[4000:]).argmax(axis=1)
    np.testing.assert_allclose(np.bincount(people) / 4000, 0.25, atol=0.03)
    assert set(train.rows[4000:]) <= set(moods.row[moods.part == split.TRAIN])
    assert set(validation.rows[1600 // 2 :]) <= set(moods.row[moods.part == split.VALIDATION])


def test_network_learns_perceived_moods() -> None:
    features = catalogue()
    moods = planted(features)
    model, card = mood.train(features, recipe.Mood(examples=1000, epochs=6, learning_rate=0.005), 0, moods)
    rows, truth = moods.test()
    rule_f1 = metrics.macro_f1(mood.perceived_shares(soft_rule(features)[rows]), truth)
    assert card["teacher"] == "perceived"
    assert card["perceived_macro_f1"] > 0.6 > 0.4 > rule_f1
    probabilities = model.probabilities(features)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert probabilities[:, 4].max() <= FOCUS_LIMITS["perceived"]


def test_network_gives_the_shares_of_the_catalogue_where_no_mood_matches(demo_run: Run) -> None:
    """A track in the middle of everything was sad with a probability of 1."""
    features = np.ascontiguousarray(demo_run.catalogue.inputs[:, :12])
    probabilities = demo_run.mood.probabilities(features[~rule(features).any(axis=1)])
    expected = soft_rule(features)[~rule(features).any(axis=1)].mean(axis=0)
    np.testing.assert_allclose(probabilities.mean(axis=0), expected, atol=0.05)
    assert np.median(probabilities.max(axis=1)) < 0.75


def test_network_agrees_with_the_rule(demo_run: Run) -> None:
    assert demo_run.quality["mood"]["rule_agreement"] > 0.95
    probabilities = demo_run.mood.probabilities(audio(valence=0.1, energy=0.3))
    assert MOODS[probabilities[0].argmax()] == "sad"


def test_missing_value_is_replaced_by_the_median(demo_run: Run) -> None:
    median = demo_run.mood.network.median.numpy()[None]
    np.testing.assert_array_equal(
        demo_run.mood.probabilities(np.full_like(median, np.nan)), demo_run.mood.probabilities(median)
    )
