import numpy as np
import pytest
from scipy.sparse import csr_matrix

from musix_trainer import curves
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation.protocols.collab import component_scorer
from musix_trainer.models import collab
from musix_trainer.models.ranker.candidates import compute_features, known_user
from musix_trainer.recipe import Collab
from musix_trainer.run import Run


def checkerboard(size: int = 40) -> Interactions:
    """Return interactions of even listeners with even tracks and odd ones with odd tracks, except the equal number."""
    pairs = [(i, j) for i in range(size) for j in range(size) if i % 2 == j % 2 and i != j]
    listener, row = (np.array(each) for each in zip(*pairs, strict=True))
    ones = np.ones(len(pairs))
    return Interactions([f"{i:02d}" for i in range(size)], listener, row, ones, np.zeros(len(pairs), np.int64))


def test_left_out_pair_of_a_checkerboard_is_recommended() -> None:
    model = collab.train(checkerboard(), Collab(epochs=60, no_components=8), 1)
    part = model.runtime()
    for listener in range(40):
        matches = part.scorer(part.listener_factors[listener]).score(part.rows)
        matches[part.places(part.history(listener))] = -1
        assert matches.argmax() == listener


def test_epochs_that_are_too_many_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The held-out tracks are those that the popularity tells, of listeners at random: more epochs learn noise."""
    rng = np.random.default_rng(0)
    plays = rng.random((80, 60)) < np.linspace(0.02, 0.6, 60)
    held_out = plays & (rng.random(plays.shape) < 0.3)
    names = [f"{i:02d}" for i in range(80)]

    def interactions(chosen: np.ndarray) -> Interactions:
        listener, row = np.nonzero(chosen)
        return Interactions(names, listener, row, np.ones(len(row)), np.zeros(len(row), np.int64))

    train, validation = interactions(plays & ~held_out), interactions(held_out)
    collab.train(train, Collab(epochs=2, no_components=4), 1, validation=validation)
    assert "in [collab] of the recipe" not in capsys.readouterr().err
    collab.train(train, Collab(epochs=10, no_components=4), 1, validation=validation)
    assert "after 10: set epochs = 2 in [collab] of the recipe\n" in capsys.readouterr().err


def test_learning_curve_changes_no_factor() -> None:
    """The one unseen track of each listener's group is held out: its rank is 1 at the end."""
    held_out = Interactions(
        [f"{i:02d}" for i in range(40)], np.arange(40), np.arange(40), np.ones(40), np.zeros(40, np.int64)
    )
    settings = Collab(epochs=60, no_components=8)
    with curves.recording() as points:
        model = collab.train(checkerboard(), settings, 1, validation=held_out)
    assert [point.step for point in points] == list(range(6, 61, 6))
    assert points[-1].value == 1
    plain = collab.train(checkerboard(), settings, 1)
    for name, values in vars(plain).items():
        np.testing.assert_array_equal(values, getattr(model, name))


def test_fold_in_prefers_tracks_of_the_same_group() -> None:
    model = collab.train(checkerboard(), Collab(epochs=60, no_components=8), 1)
    part = model.runtime()
    for history in ([2], [2, 4, 6]):
        matches = part.scorer(part.fold_in(np.array(history))).score(part.rows)
        assert matches[0::2].min() > matches[1::2].max()
    assert part.fold_in(np.array([999])) is None


def test_playlists_teach_what_belongs_together_and_are_forgotten() -> None:
    """Two listeners heard one track of each group; only the playlists tell the groups."""
    heard = np.array([4, 5])
    data = Interactions(["even", "odd"], np.array([0, 1]), heard, np.ones(2), np.zeros(2, np.int64))
    model = collab.train(data.with_playlists(checkerboard()), Collab(epochs=60, no_components=8), 1)
    part = model.runtime()
    assert part.listeners.sorted.tolist() == [b"even", b"odd"]
    assert [part.history(i).tolist() for i in (0, 1)] == [[4], [5]]
    assert len(model.listener_factors) == len(model.history_recent) == 2
    for group, row in enumerate(heard):
        for factors in (part.listener_factors[group], part.fold_in(np.array([row]))):
            matches = part.scorer(factors).score(part.rows)
            assert matches[group::2].min() > matches[1 - group :: 2].max()


def test_artist_features_are_shared_by_the_tracks_of_an_artist() -> None:
    """Tracks 0 to 3 are by one artist. Without it their factors are as different as those of other tracks."""
    artists = np.maximum(np.arange(40), 3)
    spread = []
    for shared in (True, False):
        settings = Collab(epochs=30, no_components=8, artist_features=shared)
        model = collab.train(checkerboard(), settings, 1, artists)
        even = model.track_factors[0:4:2]
        spread.append(np.linalg.norm(even[0] - even[1]) / np.linalg.norm(even, axis=1).mean())
    assert spread[0] < spread[1]


def test_scores_equal_lightfm_predictions(demo_run: Run) -> None:
    positions = np.arange(100)
    native = demo_run.collab.native_scores(np.full(100, 3), positions)
    np.testing.assert_allclose(demo_run.collab.scores(demo_run.collab.listener_factors[3])[:100], native, atol=1e-5)


def test_histories_are_ordered_by_time_then_by_plays() -> None:
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


def test_cooccurrence_affinity_is_limited_to_the_same_group() -> None:
    part = collab.train(checkerboard(), Collab(epochs=1, taste_width=2), 1).runtime()
    for listener in range(40):
        history = part.places(part.history(listener))
        affinity = part.tastes @ part.tastes[history].sum(axis=0)
        same_group = np.arange(40) % 2 == listener % 2
        np.testing.assert_allclose(affinity, 0.95 * same_group, atol=1e-4)  # 19 of the 20 tracks are in the history


def test_cooccurrence_embeddings_are_singular_vectors_of_normalized_counts() -> None:
    interactions = np.random.default_rng(3).random((30, 20)) < np.linspace(0.1, 0.9, 20)
    vectors = collab.fit_cooccurrence_embeddings(csr_matrix(interactions.astype(np.int32)), 19, 0.25, 1).astype(
        np.float64
    )
    normalized = interactions / np.sqrt(interactions.sum(axis=1, keepdims=True)) / interactions.sum(axis=0) ** 0.25
    first = np.linalg.svd(normalized)[2][:19]
    np.testing.assert_allclose(vectors @ vectors.T, first.T @ first, atol=1e-4)
    assert collab.fit_cooccurrence_embeddings(csr_matrix(interactions.astype(np.int32)), 500, 0.25, 1).shape == (20, 20)


def test_autoencoder_solves_its_ridge_regression() -> None:
    plays = (np.random.default_rng(3).random((30, 20)) < np.linspace(0.1, 0.9, 20)).astype(np.float64)
    vectors = collab.fit_autoencoder(csr_matrix(plays), 20, 4.0, 2.0, 1).astype(np.float64)
    gram = plays.T @ plays
    np.testing.assert_allclose(vectors @ vectors.T, 2 * np.linalg.solve(gram + 4 * np.eye(20), gram), atol=1e-4)


def test_component_scorer_gives_what_the_ranker_sees(demo_run: Run) -> None:
    retriever, model = demo_run.retriever(), demo_run.collab
    every = demo_run.interactions
    train = every.select(np.isin(every.names, model.listeners.astype(str))[every.listener])
    scores = component_scorer(model, train, retriever.serving.factors)(np.unique(train.listener)[[4, 9]])
    for number, expected in zip((4, 9), scores, strict=True):
        user, query = known_user(retriever, model, number)
        components = compute_features(retriever, user, query, model.rows.astype(np.int64)).components
        np.testing.assert_allclose(components[0, :, 0], expected, atol=1e-6)
