from dataclasses import replace

import numpy as np
import polars as pl

from musix_runtime.models.arrays import ABSENT, Keys
from musix_trainer import recipe
from musix_trainer.data import split
from musix_trainer.evaluation import metrics
from musix_trainer.models import genre, ngrams
from musix_trainer.models.genre import KNOWN, TITLED, UNKNOWN
from musix_trainer.run import Run


def test_titles_tell_the_family_where_no_artist_is_known_and_are_not_needed(demo_run: Run) -> None:
    """Planted: each family has words of its own, in titles alone. Nobody of the test part was learned from."""
    words = ["lua", "berg", "chanson", "corrida", "fjord", "groove", "haiku", "jazzy"] + [
        f"{2**i:x}zz" for i in range(8)
    ]
    family = demo_run.catalogue.families.argmax(axis=1)
    titles = [f"{words[each]} {row % 7}" for row, each in enumerate(family.tolist())]
    catalogue = replace(
        demo_run.catalogue, frame=demo_run.catalogue.frame.with_columns(pl.Series("track_name", titles))
    )
    codes = np.unique(catalogue.primary_artists(), return_inverse=True)[1]
    parts = split.assign(int(codes.max()) + 1, 0.2, 0.2, seed=1)[codes]
    model = genre.fit(catalogue, parts, recipe.Genre(epochs=2, n_estimators=10), seed=1)

    test = np.flatnonzero(parts == split.TEST)
    (artists, said), inputs, truth = catalogue.texts(test), catalogue.inputs[test], catalogue.families[test]
    titled = metrics.macro_f1(model.confidence(inputs, artists, said), truth)
    without = metrics.macro_f1(model.confidence(inputs, artists, [""] * len(test)), truth)
    assert titled > 0.9
    assert 0.2 < without < 0.8
    assert metrics.calibration_error(model.confidence(inputs, artists, [""] * len(test)), truth) < 0.1

    known = catalogue.artists()[int(np.flatnonzero(parts == split.TRAIN)[0])]
    _, case = model.scores(inputs[:3], [known, artists[0], artists[0]], [said[0], said[0], ""])
    assert case.tolist() == [KNOWN, TITLED, UNKNOWN]


def test_an_artist_is_known_by_the_tracks_it_leads_not_by_those_it_is_a_guest_on() -> None:
    """Planted: two tracks of its own in one family, three as a guest in another."""
    names = [["ann"], ["ann"], *[["bob", "ann"]] * 3]
    share = np.array([[1.0, 0]] * 2 + [[0, 1.0]] * 3)
    credited = genre._credits(Keys(np.array([b"ann", b"bob"])), names)
    ann, bob = np.exp(genre._artist_prior(credited, share, np.zeros((2, 2)), 0.4))
    guest = 3 * genre.FEATURED_ARTIST_WEIGHT
    np.testing.assert_allclose(ann, np.array([2 + 0.2, guest + 0.2]) / (2 + guest + 0.4), rtol=1e-6)
    np.testing.assert_allclose(bob, np.array([0.2, 3.2]) / 3.4, rtol=1e-6)


def test_the_prior_of_a_training_track_is_the_one_of_all_others() -> None:
    """Each track is left out in turn, its artists looked up among what is left."""
    rng = np.random.default_rng(3)
    keys, strength = Keys(np.array([b"ann", b"bob", b"cid", b"dan"])), 0.4
    texts = ["ann", "ann bob", "bob cid", "cid ann", "bob", "nobody ann", "dan", "dan ann", "nobody", "", "eve dan"]
    names = [text.split() for text in texts]
    share, said = rng.dirichlet(np.ones(3), len(names)), rng.standard_normal((len(names), 3))
    prior, known = genre._leave_one_out_prior(genre._credits(keys, names), share, said, strength)
    for row, artists in enumerate(names):
        rest = [each if other != row else [] for other, each in enumerate(names)]
        places = [int(keys.find([name])[0]) for name in artists if any(name in each for each in rest)]
        place = next((each for each in places if each != ABSENT), ABSENT)
        assert known[row] == (place != ABSENT)
        expected = said[row]
        if known[row]:
            credited = genre._credits(keys, rest)
            expected = genre._artist_prior(credited, share, np.tile(said[row], (4, 1)), strength)[place]
        np.testing.assert_allclose(prior[row], expected, rtol=1e-4, atol=1e-5)


def test_letters_of_a_name_that_was_met_are_not_what_the_booster_learns_from() -> None:
    """Planted: names and titles of random letters, families at random. Who learned from a name knows its family; who
    did not cannot tell, and neither do tracks of the same artist or its guests give it away."""
    rng = np.random.default_rng(5)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), 6)) for _ in range(600)]
    artist = np.repeat(np.arange(200), 3)
    family = rng.integers(0, 4, 200)[artist]
    names = [[words[each]] if row % 3 else [words[each], words[(each + 1) % 200]] for row, each in enumerate(artist)]
    truth, weight = np.eye(4, dtype=bool)[family], np.ones(600, np.float32)
    grams = Keys(ngrams.vocabulary(words[:200], words))
    given, primary = ngrams.read(grams, names, [words[each] for each in artist + 200]), [each[0] for each in names]
    met = given[0] @ ngrams.weights(given, truth, weight, 1e-5, seed=1)
    unmet, titles = ngrams.out_of_fold_logits(given, names, primary, truth, weight, 1e-5, seed=1)
    assert (met.argmax(axis=1) == family).mean() > 0.8
    assert (unmet.argmax(axis=1) == family).mean() < 0.4
    assert (titles.argmax(axis=1) == family).mean() < 0.4


def test_an_artist_weighs_as_much_as_the_root_of_its_tracks_that_were_learned() -> None:
    artists, learned = ["a", "a", "a", "a", "a", "b", "c"], np.array([1, 1, 1, 1, 0, 1, 0], bool)
    assert genre._artist_weight(artists, learned).tolist() == [0.5] * 5 + [1, 1]
