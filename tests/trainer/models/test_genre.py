from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from musix_runtime.models.arrays import ABSENT, Keys
from musix_runtime.models.features import AUDIO
from musix_trainer import curves, recipe
from musix_trainer.data import split
from musix_trainer.evaluation import metrics
from musix_trainer.models.genre import evidence, ngrams
from musix_trainer.models.genre.artist_prior import (
    FEATURED_ARTIST_WEIGHT,
    find_credits,
    fit_prior,
    leave_one_out_prior,
)
from musix_trainer.models.genre.base_models import classifier
from musix_trainer.models.genre.examples import Examples, artist_weight
from musix_trainer.models.genre.quality import predict_test_split
from musix_trainer.models.genre.training import fit
from musix_trainer.part import Training
from musix_trainer.run import Run


def test_title_predicts_the_family_of_an_unknown_artist_and_is_optional(demo_run: Run) -> None:
    """Planted: each family has words of its own, in titles alone. No artist of the test part is in training."""
    words = ["lua", "berg", "chanson", "corrida", "fjord", "groove", "haiku", "jazzy"] + [
        f"{2**i:x}zz" for i in range(9)
    ]
    family = demo_run.catalogue.families.argmax(axis=1)
    titles = [f"{words[label]} {row % 7}" for row, label in enumerate(family.tolist())]
    catalogue = replace(
        demo_run.catalogue, frame=demo_run.catalogue.frame.with_columns(pl.Series("track_name", titles))
    )
    codes = np.unique(catalogue.primary_artists(), return_inverse=True)[1]
    parts = split.assign(int(codes.max()) + 1, 0.2, 0.2, seed=1)[codes]
    model = fit(catalogue, parts, recipe.Genre(epochs=2, learning_rate=0.2, n_estimators=10), seed=1)

    test = np.flatnonzero(parts == split.TEST)
    (artists, test_titles), inputs, truth = catalogue.texts(test), catalogue.inputs[test], catalogue.families[test]
    with_title = metrics.macro_f1(model.confidence(inputs, artists, test_titles), truth)
    untitled = model.confidence(inputs, artists, [""] * len(test))
    assert with_title > 0.9
    assert 0.2 < metrics.macro_f1(untitled, truth) < 0.8
    assert metrics.calibration_error(untitled, truth) < 0.1

    known = catalogue.artists()[int(np.flatnonzero(parts == split.TRAIN)[0])]
    _, numbers = model.scores(inputs[:3], [known, artists[0], []], [test_titles[0], test_titles[0], ""])
    assert numbers.tolist() == [evidence.KNOWN_ARTIST, evidence.UNKNOWN_ARTIST_AND_TITLE, evidence.NO_NAMES]


def test_artist_prior_weighs_primary_tracks_above_featured_ones() -> None:
    """Planted: two tracks of its own in one family, three as a featured artist in another."""
    names = [["ann"], ["ann"], *[["bob", "ann"]] * 3]
    labels = np.array([[1.0, 0]] * 2 + [[0, 1.0]] * 3)
    artist_credits = find_credits(Keys(np.array([b"ann", b"bob"])), names)
    ann, bob = np.exp(fit_prior(artist_credits, labels, np.zeros((2, 2)), 0.4))
    featured = 3 * FEATURED_ARTIST_WEIGHT
    np.testing.assert_allclose(ann, np.array([2 + 0.2, featured + 0.2]) / (2 + featured + 0.4), rtol=1e-6)
    np.testing.assert_allclose(bob, np.array([0.2, 3.2]) / 3.4, rtol=1e-6)


def test_leave_one_out_prior_equals_the_prior_of_all_other_tracks() -> None:
    """Each track is left out in turn, its artists looked up among what is left."""
    rng = np.random.default_rng(3)
    keys, strength = Keys(np.array([b"ann", b"bob", b"cid", b"dan"])), 0.4
    texts = ["ann", "ann bob", "bob cid", "cid ann", "bob", "nobody ann", "dan", "dan ann", "nobody", "", "eve dan"]
    names = [text.split() for text in texts]
    labels, logits = rng.dirichlet(np.ones(3), len(names)), rng.standard_normal((len(names), 3))
    prior, known = leave_one_out_prior(find_credits(keys, names), labels, logits, strength)
    for row, artists in enumerate(names):
        rest = [each if other != row else [] for other, each in enumerate(names)]
        positions = [int(keys.find([name])[0]) for name in artists if any(name in each for each in rest)]
        position = next((each for each in positions if each != ABSENT), ABSENT)
        assert known[row] == (position != ABSENT)
        expected = logits[row]
        if known[row]:
            expected = fit_prior(find_credits(keys, rest), labels, np.tile(logits[row], (4, 1)), strength)[position]
        np.testing.assert_allclose(prior[row], expected, rtol=1e-4, atol=1e-5)


def test_out_of_fold_logits_do_not_leak_the_family_of_an_artist() -> None:
    """Planted: names and titles of random letters, families at random. Weights that are fitted to a name predict its
    family; out-of-fold weights cannot, and neither other tracks of the artist nor its featured artists leak it."""
    rng = np.random.default_rng(5)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), 6)) for _ in range(600)]
    artist = np.repeat(np.arange(200), 3)
    family = rng.integers(0, 4, 200)[artist]
    names = [[words[each]] if row % 3 else [words[each], words[(each + 1) % 200]] for row, each in enumerate(artist)]
    titles = [words[each] for each in artist + 200]
    truth, weight = np.eye(4, dtype=bool)[family], np.ones(600, np.float32)
    train = Examples(np.zeros((600, 15), np.float32), names, titles, [each[0] for each in names], truth, weight)
    texts = ngrams.text_features(Keys(ngrams.vocabulary(words[:200], words)), names, titles)
    seen = texts[0] @ ngrams.fit_weights(texts, truth, weight, 1e-5, seed=1)
    name_logits, title_logits = ngrams.out_of_fold_logits(texts, train, 1e-5, seed=1)
    assert (seen.argmax(axis=1) == family).mean() > 0.8
    assert (name_logits.argmax(axis=1) == family).mean() < 0.4
    assert (title_logits.argmax(axis=1) == family).mean() < 0.4


def test_artist_weight_is_the_inverse_root_of_the_counted_tracks() -> None:
    artists, counted = ["a", "a", "a", "a", "a", "b", "c"], np.array([1, 1, 1, 1, 0, 1, 0], bool)
    assert artist_weight(artists, counted).tolist() == [0.5] * 5 + [1, 1]


def test_masked_inputs_are_those_that_requests_lack() -> None:
    """The 12 audio features are always given; popularity is missing most often, explicit and duration only with it."""
    rng = np.random.default_rng(0)
    inputs = rng.random((10_000, 15)).astype(np.float32)
    missing = np.isnan(evidence.mask(inputs, 0.5, 0, rng))
    assert not missing[:, : len(AUDIO)].any()
    popularity, duration, explicit = missing[:, len(AUDIO) :].T
    assert 0.48 < popularity.mean() < 0.52
    assert 0.38 < explicit.mean() < 0.42
    assert 0.28 < duration.mean() < 0.32
    assert (popularity >= explicit).all()
    assert (explicit >= duration).all()
    without = np.isnan(evidence.mask(inputs, 0, 0.03, rng))
    assert 0.02 < without.all(axis=1).mean() < 0.04
    assert (without.all(axis=1) == without.any(axis=1)).all()


def test_each_cell_has_a_calibration_of_its_own() -> None:
    """A name, a title or both, of which none is known, with all inputs, without popularity, and with none."""
    inputs = np.ones((3, 15), np.float32)
    names, nothing = np.ones((3, 4)), np.zeros((3, 4))
    levels = np.vstack([evidence.hide(inputs[:1], level) for level in range(3)])
    for prior, title, known, expected in (
        (nothing, nothing, False, evidence.NO_NAMES),
        (names, nothing, True, evidence.KNOWN_ARTIST),
        (nothing, names, False, evidence.TITLE),
        (names, nothing, False, evidence.UNKNOWN_ARTIST),
        (names, names, False, evidence.UNKNOWN_ARTIST_AND_TITLE),
    ):
        kind = evidence.evidence_kind(np.full(3, known), title)
        numbers = evidence.calibration_number(kind, prior, levels)
        assert numbers.tolist() == [expected + len(evidence.NAMES) * level for level in range(3)]
        assert evidence.graph_case(numbers).tolist() == kind.tolist()


def test_every_kind_of_evidence_is_answered_as_well_as_by_a_model_of_its_own(demo_run: Run) -> None:
    """The measured model against XGBoost that was taught the same rows with audio features alone, on the test part."""
    catalogue, settings, seed = demo_run.catalogue, demo_run.recipe.genre, demo_run.recipe.seed
    parts = split.assign(len(catalogue), settings.validation, settings.test, seed)
    train, test = (np.flatnonzero(parts == part) for part in (split.TRAIN, split.TEST))
    audio, families = catalogue.inputs[:, : len(AUDIO)], catalogue.families
    alone = classifier(settings, seed).fit(audio[train], families[train].argmax(axis=1))
    expected = metrics.macro_f1(alone.predict_proba(audio[test]), families[test])
    card = demo_run.quality["genre"]["all_artists"]
    assert card["audio_only"]["macro_f1"] > expected - 0.05
    assert card["inputs_only"]["macro_f1"] > expected - 0.05
    assert card["names_and_audio"]["macro_f1"] > card["audio_only"]["macro_f1"]
    assert card["artist_only"]["macro_f1"] > 0.8
    assert max(card[cell]["ece"] for cell in evidence.CELLS) < 0.12  # of 300 recordings


def test_shipped_model_is_refitted_on_what_was_held_out(demo_run: Run) -> None:
    """The card has the figures of the first fit, whose answers are stored; the shipped model knows more artists."""
    card, catalogue, settings = demo_run.quality["genre"], demo_run.catalogue, demo_run.recipe.genre
    assert card["fits"] == {"measured": 2400, "shipped": 2700}
    confidence, truth = predict_test_split(demo_run.genre, catalogue, settings, demo_run.recipe.seed)
    assert metrics.macro_f1(confidence, truth) == card["macro_f1"]
    test = np.flatnonzero(split.assign(len(catalogue), 0.1, 0.1, demo_run.recipe.seed) == split.TEST)
    learned = demo_run.genre.confidence(catalogue.inputs[test], *catalogue.texts(test))
    assert metrics.macro_f1(learned, truth) > card["macro_f1"]


def test_track_without_family_is_classified_by_the_model(demo_run: Run) -> None:
    catalogue = demo_run.catalogue
    families = catalogue.families.copy()
    families[5] = False
    interactions = demo_run.interactions
    unlabelled = replace(catalogue, families=families)
    training = Training(
        demo_run.recipe, unlabelled, interactions, interactions, interactions, None, {"genre": demo_run.genre}
    )
    expected = demo_run.genre.confidence(catalogue.inputs[[5]], *catalogue.texts(np.array([5])))[0].argmax()
    assert np.flatnonzero(training.classified.families[5]).tolist() == [expected]
    np.testing.assert_array_equal(np.delete(training.classified.families, 5, 0), np.delete(catalogue.families, 5, 0))


def test_learning_curves_change_no_model_and_end_at_its_own_loss(demo_run: Run, tmp_path: Path) -> None:
    """The last loss of the model that reads the inputs alone is that of its own probabilities."""
    catalogue = demo_run.catalogue.select(np.arange(600))
    parts = split.assign(len(catalogue), 0.2, 0.2, seed=1)
    settings = recipe.Genre(epochs=2, learning_rate=0.2, n_estimators=7, multi_strategy="one_output_per_tree")
    with curves.recording() as points:
        model = fit(catalogue, parts, settings, 1, with_curves=True)
    fit(catalogue, parts, settings, 1).save(tmp_path / "plain")
    model.save(tmp_path / "curves")
    for file in (tmp_path / "plain").iterdir():
        assert file.read_bytes() == (tmp_path / "curves" / file.name).read_bytes(), file.name

    validation = np.flatnonzero(parts == split.VALIDATION)
    inputs, truth = catalogue.inputs[validation], catalogue.families[validation]
    logits = model.nameless_scores(inputs, np.zeros(truth.shape, np.float32))[1]
    loss = -(truth / truth.sum(axis=1, keepdims=True) * logits).sum(axis=1).mean()
    (last,) = (point for point in points if point.metric == "sound_validation_loss" and point.step == 7)
    assert last.value == pytest.approx(loss, rel=1e-5)
