from dataclasses import replace

import numpy as np
import polars as pl

from musix_trainer import genre, metrics, recipe, split
from musix_trainer.genre import KNOWN, TITLED, UNKNOWN
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
    truth = np.array([[True, False]] * 2 + [[False, True]] * 3)
    base = {"artists": np.array([b"ann", b"bob"]), "grams": np.array([b"\xff"]), "gram_weights": np.zeros((1, 2))}
    ann, bob = np.exp(genre._artist_prior(base, names, truth, 0.4))
    guest = 3 * genre.GUEST
    np.testing.assert_allclose(ann, np.array([2 + 0.2, guest + 0.2]) / (2 + guest + 0.4), rtol=1e-6)
    np.testing.assert_allclose(bob, np.array([0.2, 3.2]) / 3.4, rtol=1e-6)


def test_an_artist_weighs_as_much_as_the_root_of_its_tracks_that_were_learned() -> None:
    artists, learned = ["a", "a", "a", "a", "a", "b", "c"], np.array([1, 1, 1, 1, 0, 1, 0], bool)
    assert genre._artist_weight(artists, learned).tolist() == [0.5] * 5 + [1, 1]
