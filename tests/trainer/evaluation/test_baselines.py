import numpy as np
import pytest
from scipy.sparse import csr_matrix

from musix_trainer.evaluation.baselines import BASELINES, ease, popularity


@pytest.fixture(scope="module")
def plays() -> csr_matrix:
    """Return a matrix of two groups of listeners, with 10 of 20 tracks each, of which a listener has 6."""
    rng = np.random.default_rng(0)
    matrix = np.zeros((60, 20), np.float32)
    for listener, row in enumerate(matrix):
        row[10 * (listener % 2) + rng.choice(10, 6, replace=False)] = 1
    return csr_matrix(matrix)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("ItemKNN", {}),
        ("EASE", {}),
        ("iALS", {"factors": 2, "regularization": 1.0}),
        ("BPR", {"factors": 2, "iterations": 200}),
    ],
)
def test_baselines_recommend_the_listeners_own_group(name: str, values: dict[str, float], plays: csr_matrix) -> None:
    scores = BASELINES[name](plays, seed=0, **values)(np.arange(60))
    assert scores.shape == (60, 20)
    scores[plays.toarray() > 0] = -np.inf
    own = scores.reshape(60, 2, 10)[np.arange(60), np.arange(60) % 2]
    best = np.sort(scores, axis=1)[:, -4:]
    assert np.mean(np.sort(own, axis=1)[:, -4:] == best) > 0.95


def test_popularity_is_the_number_of_listeners(plays: csr_matrix) -> None:
    assert popularity(plays, seed=0)(np.array([3]))[0].tolist() == plays.toarray().sum(axis=0).tolist()


def test_ease_solves_its_ridge_regression(plays: csr_matrix) -> None:
    """Each track is predicted from the others, none from itself, with an L2 penalty."""
    dense, penalty = plays.toarray().astype(np.float64), 7.0
    weights = np.zeros((20, 20))
    for track in range(20):
        others = np.delete(np.arange(20), track)
        x = dense[:, others]
        weights[others, track] = np.linalg.solve(x.T @ x + penalty * np.eye(19), x.T @ dense[:, track])
    np.testing.assert_allclose(ease(plays, 0, penalty)(np.arange(60)), dense @ weights, atol=1e-3)
