import numpy as np
import polars as pl

from musix_trainer.data.interactions import Interactions
from musix_trainer.data.tracks import Tracks
from musix_trainer.models import artists
from musix_trainer.recipe import Artists


def catalogue() -> Tracks:
    """Return five tracks: of A, B (three, of which the second is the most popular), and C."""
    inputs = np.zeros((5, 15), np.float32)
    inputs[:, 12] = [5, 10, 90, 20, 50]
    frame = pl.DataFrame({"artists": ["A;B", "The B", "B", "b", "C"], "track_name": [*"vwxyz"]})
    return Tracks(frame, pl.DataFrame(), inputs, [], np.ones((5, 1), bool))


def interactions(*pairs: tuple[int, int]) -> Interactions:
    listener, row = np.array(pairs).T
    return Interactions([f"{i}" for i in range(listener.max() + 1)], listener, row, np.ones(len(row)), 0 * row)


def test_tracks_of_an_artist_are_ordered_by_listeners_then_popularity() -> None:
    model = artists.train(catalogue(), interactions((0, 3), (1, 3), (0, 0)), Artists(neighbours=2))
    assert model.track_artists.tolist() == [0, 1, 1, 1, 2]
    assert model.rows.tolist() == [0, 3, 2, 1, 4]
    assert model.offsets.tolist() == [0, 1, 4, 5]
    assert model.ranks.tolist() == [0, 2, 1, 0, 0]


def test_similar_artists_have_listeners_in_common() -> None:
    """A has listeners 0 and 1, B (who has two tracks of listener 0) 0, and C 1 and 2."""
    data = interactions((0, 0), (1, 0), (0, 1), (0, 2), (1, 4), (2, 4))
    model = artists.train(catalogue(), data, Artists(neighbours=2, shrinkage=1.0))
    to_b, to_c = 1 / (np.sqrt(2) + 1), 1 / (2 + 1)
    assert model.similar[0].tolist() == [1, 2]
    np.testing.assert_allclose(model.similarities, [[to_b, to_c], [to_b, 0], [to_c, 0]], rtol=1e-6)
    assert model.similar[1:, 0].tolist() == [0, 0]
