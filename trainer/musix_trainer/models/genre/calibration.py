"""Calibration of the genre ensemble: a weighted average of the base models' scores, then Platt scaling."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from musix_runtime.models.arrays import Floats
from musix_trainer.evaluation import metrics

BASE_MODELS = ("lightfm", "xgboost", "titles", "sound", "audio")
INITIAL_WEIGHTS = (0.1, 0.3, 0.2, 0.2, 0.2)  # of the base models, where the optimiser starts
RIDGE = 1e-4  # keeps the biases of families near 0 that validation holds few tracks of
FLOOR = 1e-6  # least distance of a probability from 0 and 1
Scores = Sequence[Floats]  # of the base models, each (n, families)


class Calibration(NamedTuple):
    """Calibration of one evidence kind: weights (base models,), biases (families,), slope and intercept (2,)."""

    weights: NDArray[Any]
    biases: NDArray[Any]
    platt: NDArray[Any]


def log_odds(probability: Floats) -> Floats:
    """Return log(p / (1 - p)), with p kept `FLOOR` away from 0 and 1."""
    bounded = np.clip(probability, FLOOR, 1 - FLOOR)
    return np.asarray(np.log(bounded) - np.log(1 - bounded))


def combine(scores: Scores, weights: Floats, biases: Floats, platt: Floats) -> Floats:
    """Return the calibrated confidence of each family. Shape (n, families).

    Each row has its own weights (n, base models), biases (n, families), and slope and intercept (n, 2).
    """
    logits = sum(weights[:, [i]] * each for i, each in enumerate(scores)) + biases
    odds = log_odds(softmax(logits, axis=1))
    return np.asarray(expit(platt[:, :1] * odds + platt[:, 1:]), np.float32)


def fit_calibration(scores: Scores, truth: metrics.Truth, target: Floats) -> Calibration:
    """Fit by maximum likelihood.

    `target` (n, families) is the weight of each track in each of its families; tracks without any are left out.
    """
    used = target.any(axis=1)
    scores, truth, target = [each[used] for each in scores], truth[used], target[used] / target.sum()
    members, families = len(scores), truth.shape[1]
    total = target.sum(axis=1, keepdims=True)

    def loss(x: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        log_shares = log_softmax(sum(x[i] * each for i, each in enumerate(scores)) + x[members:], axis=1)
        error = np.exp(log_shares) * total - target
        gradient = np.concatenate([[(error * each).sum() for each in scores], error.sum(axis=0)])
        gradient[members:] += 2 * RIDGE * x[members:]
        return float(-(target * log_shares).sum() + RIDGE * (x[members:] ** 2).sum()), gradient

    start = np.concatenate([INITIAL_WEIGHTS, np.zeros(families)])
    bounds = [*[(0, None)] * members, *[(None, None)] * families]
    best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    odds = log_odds(softmax(sum(best[i] * each for i, each in enumerate(scores)) + best[members:], axis=1))
    platt = LogisticRegression(C=1e6).fit(odds.reshape(-1, 1), truth.ravel())
    return Calibration(best[:members], best[members:], np.array([platt.coef_[0, 0], platt.intercept_[0]]))
