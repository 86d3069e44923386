"""Baselines of the collab part, each tuned with as many trials as the part itself.

Each is fitted to a matrix (listeners, tracks) of ones, and returns a scorer of all tracks for a batch of listeners.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
from implicit.als import AlternatingLeastSquares
from implicit.bpr import BayesianPersonalizedRanking
from implicit.nearest_neighbours import CosineRecommender
from scipy.linalg import inv
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from musix_runtime.models.arrays import Floats, Rows

Scorer = Callable[[Rows], Floats]  # listeners (n,) -> scores (n, tracks)
Name = Literal["popularity", "ItemKNN", "EASE", "iALS", "BPR"]


def popularity(plays: csr_matrix, seed: int) -> Scorer:
    """Score by the number of listeners of a track."""
    counts = np.asarray(plays.sum(axis=0), np.float32).ravel()
    return lambda listeners: np.tile(counts, (len(listeners), 1))


def item_knn(plays: csr_matrix, seed: int, neighbours: int = 100) -> Scorer:
    """Score by cosine similarity to the tracks of the history, `neighbours` for each (Sarwar et al. 2001)."""
    model = CosineRecommender(K=neighbours, num_threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a conversion inside of the library
        model.fit(plays, show_progress=False)
    similarity = model.similarity.tocsr()
    return lambda listeners: np.asarray((plays[listeners] @ similarity).toarray(), np.float32)


def ease(plays: csr_matrix, seed: int, penalty: float = 200.0) -> Scorer:
    """Score by an embarrassingly shallow autoencoder, solved in closed form (Steck 2019)."""
    weights = ease_weights(plays, penalty)
    return lambda listeners: np.asarray(plays[listeners] @ weights, np.float32)


def ease_weights(plays: csr_matrix, penalty: float) -> Floats:
    """Return EASE's weights from each track of a history to each other track. Shape (tracks, tracks)."""
    gram = (plays.T @ plays).toarray().astype(np.float32)
    gram[np.diag_indices(len(gram))] += penalty
    precision = inv(gram, overwrite_a=True, check_finite=False)
    weights = precision / -np.diag(precision)
    np.fill_diagonal(weights, 0)
    return np.asarray(weights)


def ials(
    plays: csr_matrix,
    seed: int,
    factors: int = 64,
    regularization: float = 0.01,
    alpha: float = 1.0,
    iterations: int = 15,
) -> Scorer:
    """Score by weighted matrix factorisation, fitted by alternating least squares (Hu, Koren and Volinsky 2008)."""
    values = {"factors": factors, "regularization": regularization, "alpha": alpha, "iterations": iterations}
    return _factors(partial(AlternatingLeastSquares, **values), plays, seed)


def bpr(
    plays: csr_matrix,
    seed: int,
    factors: int = 64,
    learning_rate: float = 0.01,
    regularization: float = 0.01,
    iterations: int = 100,
) -> Scorer:
    """Score by matrix factorisation, fitted by Bayesian personalised ranking (Rendle et al. 2009)."""
    values = {"factors": factors, "regularization": regularization, "iterations": iterations}
    return _factors(partial(BayesianPersonalizedRanking, learning_rate=learning_rate, **values), plays, seed)


def _factors(make: Callable[..., Any], plays: csr_matrix, seed: int) -> Scorer:
    with threadpool_limits(1, user_api="blas"):  # as implicit recommends
        model = make(random_state=seed, num_threads=1, use_gpu=False)
        model.fit(plays, show_progress=False)
    listeners, tracks = np.asarray(model.user_factors), np.asarray(model.item_factors)
    return lambda numbers: np.asarray(listeners[numbers] @ tracks.T, np.float32)


BASELINES: dict[str, Callable[..., Scorer]] = {
    "popularity": popularity,
    "ItemKNN": item_knn,
    "EASE": ease,
    "iALS": ials,
    "BPR": bpr,
}
