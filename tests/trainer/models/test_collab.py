import numpy as np
from scipy.sparse import csr_matrix

from musix_trainer.data.interactions import Interactions
from musix_trainer.models import collab
from musix_trainer.recipe import Collab
from musix_trainer.run import Run


def checkerboard(size: int = 40) -> Interactions:
    """Even listeners hear even tracks, odd ones odd tracks; each misses the track of its own number."""
    pairs = [(i, j) for i in range(size) for j in range(size) if i % 2 == j % 2 and i != j]
    listener, row = (np.array(each) for each in zip(*pairs, strict=True))
    ones = np.ones(len(pairs))
    return Interactions([f"{i:02d}" for i in range(size)], listener, row, ones, np.zeros(len(pairs), np.int64))


def test_the_missing_square_of_a_checkerboard_is_recommended() -> None:
    model = collab.train(checkerboard(), Collab(epochs=60, no_components=8), 1)
    part = model.runtime()
    for listener in range(40):
        matches = part.scorer(part.listener_factors[listener]).score(part.rows)
        matches[part.places(part.history(listener))] = -1
        assert matches.argmax() == listener


def test_a_new_listener_is_folded_in_among_alike() -> None:
    model = collab.train(checkerboard(), Collab(epochs=60, no_components=8), 1)
    part = model.runtime()
    for history in ([2], [2, 4, 6]):
        matches = part.scorer(part.fold_in(np.array(history))).score(part.rows)
        assert matches[0::2].min() > matches[1::2].max()
    assert part.fold_in(np.array([999])) is None


def test_scores_are_lightfms_own(demo_run: Run) -> None:
    places = np.arange(100)
    native = demo_run.collab.native_scores(np.full(100, 3), places)
    np.testing.assert_allclose(demo_run.collab.scores(demo_run.collab.listener_factors[3])[:100], native, atol=1e-5)


def test_histories_are_newest_first_then_most_played() -> None:
    day = collab.DAY
    data = Interactions(
        ["a"],
        np.zeros(4, np.int64),
        np.arange(4),
        np.array([1.0, 9.0, 5.0, 1.0]),
        np.array([500 * day, 500 * day, 400 * day, 100 * day]),
    )
    part = collab.train(data, Collab(epochs=1), 0).runtime()
    assert part.history(0).tolist() == [1, 0, 2, 3]
    assert part.count(0, "long_term") == 4
    assert part.count(0, "medium_term") == 3
    assert part.count(0, "short_term") == 2


def test_what_was_heard_speaks_for_what_is_heard_with_it_and_for_nothing_else() -> None:
    part = collab.train(checkerboard(), Collab(epochs=1, taste_width=2), 1).runtime()
    for listener in range(40):
        heard = part.places(part.history(listener))
        spoken = part.tastes @ part.tastes[heard].sum(axis=0)
        alike = np.arange(40) % 2 == listener % 2
        np.testing.assert_allclose(spoken, 0.95 * alike, atol=1e-4)  # 19 of the 20, the missing one too


def test_tastes_are_the_first_singular_vectors_of_counts_evened_out() -> None:
    heard = np.random.default_rng(3).random((30, 20)) < np.linspace(0.1, 0.9, 20)
    vectors = collab.fit_tastes(csr_matrix(heard.astype(np.int32)), 19, 0.25, 1).astype(np.float64)
    even = heard / np.sqrt(heard.sum(axis=1, keepdims=True)) / heard.sum(axis=0) ** 0.25
    first = np.linalg.svd(even)[2][:19]
    np.testing.assert_allclose(vectors @ vectors.T, first.T @ first, atol=1e-4)
    assert collab.fit_tastes(csr_matrix(heard.astype(np.int32)), 500, 0.25, 1).shape == (20, 20)
