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
