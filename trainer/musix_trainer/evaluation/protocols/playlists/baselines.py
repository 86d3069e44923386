"""Baselines that continue the history of a new listener: each scores the whole catalogue."""

from collections.abc import Callable, Mapping

import numpy as np
from implicit.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from musix_runtime.models.arrays import Floats, Rows
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation.baselines import ease_weights
from musix_trainer.models.artists import group_by_artist
from musix_trainer.models.item_stats import popularity_order
from musix_trainer.run import Run

Scorer = Callable[[list[Rows]], Floats]  # histories -> scores (n, tracks)


def fit_baselines(run: Run, train: Interactions, seed: int) -> dict[str, Scorer]:
    """Return all baselines by name, fitted to these interactions with the values that the recipe has for them."""
    size, artists = len(run.catalogue), run.catalogue.artist_numbers
    plays = csr_matrix((np.ones(len(train), np.float32), (train.listener, train.row)), (len(train.names), size))
    order = popularity_order(run.catalogue, np.bincount(train.row, minlength=size))
    return Baselines(plays[np.unique(train.listener)], order, artists, run.recipe.tuned.baselines).scorers(seed)


class Baselines:
    """Baselines that are fitted to the interactions of other listeners, `plays` (listeners, tracks) of ones.

    Only tracks with interactions, the `columns`, have scores of a model, all others have 0; popularity and artists rank
    the whole catalogue. `order` has its rows, the most popular first, `artists` the number of each row's artist.
    """

    def __init__(
        self, plays: csr_matrix, order: Rows, artists: Rows, values: Mapping[str, Mapping[str, float]]
    ) -> None:
        self.columns = np.unique(plays.indices)
        self._plays = plays[:, self.columns]
        self._artists, self._order = artists, order
        self._size = len(order)
        _, _, ranks = group_by_artist(artists, order)
        self._weight = 1 / np.sqrt(1 + ranks).astype(np.float32)
        self._values = values

    def scorers(self, seed: int) -> dict[str, Scorer]:
        """Return all baselines by name."""
        ease = self._linear(ease_weights(self._plays, self._value("EASE", "penalty", 200)))
        mix = self._value("EASE_artist_popular", "artist", 0.3)
        return {
            "popularity": self._popularity,
            "artist_popular": self._artist_popular,
            "ItemKNN": self._linear(self._knn_weights(self._value("ItemKNN", "shrinkage", 10))),
            "EASE": ease,
            "iALS": self._ials(seed),
            "EASE_artist_popular": lambda histories: ease(histories) + mix * self._artist_popular(histories),
        }

    def _value(self, name: str, key: str, default: float) -> float:
        return float(self._values.get(name, {}).get(key, default))

    def _popularity(self, histories: list[Rows]) -> Floats:
        scores = np.empty(self._size, np.float32)
        scores[self._order] = np.arange(self._size, 0, -1)
        return np.tile(scores, (len(histories), 1))

    def _artist_popular(self, histories: list[Rows]) -> Floats:
        """Score the popular tracks of the artists in the history: root of the artist's share / root of the rank."""
        scores = np.zeros((len(histories), self._size), np.float32)
        for row, history in zip(scores, histories, strict=True):
            counts = np.bincount(self._artists[history], minlength=int(self._artists.max()) + 1)
            row[:] = np.sqrt(counts / len(history))[self._artists] * self._weight
        return scores

    def _knn_weights(self, shrinkage: float) -> Floats:
        """Return the cosines of tracks with shrinkage: pairs / (root of the product of listeners + shrinkage)."""
        pairs = (self._plays.T @ self._plays).toarray().astype(np.float32)
        listeners = np.sqrt(pairs.diagonal())
        np.fill_diagonal(pairs, 0)
        return np.asarray(pairs / (np.outer(listeners, listeners) + shrinkage), np.float32)

    def _linear(self, weights: Floats) -> Scorer:
        """Return the scorer that adds the weights (columns, columns) of the tracks in the history."""
        return lambda histories: self._scatter(np.asarray(self._history(histories) @ weights))

    def _ials(self, seed: int) -> Scorer:
        with threadpool_limits(1, user_api="blas"):
            model = AlternatingLeastSquares(
                factors=int(self._value("iALS", "factors", 64)),
                regularization=self._value("iALS", "regularization", 1),
                alpha=self._value("iALS", "alpha", 10),
                iterations=15,
                random_state=seed,
                num_threads=1,
                use_gpu=False,
            )
            model.fit(self._plays, show_progress=False)
        items = np.asarray(model.item_factors)

        def scores(histories: list[Rows]) -> Floats:
            plays = self._history(histories)
            return self._scatter(np.asarray(model.recalculate_user(np.arange(len(histories)), plays)) @ items.T)

        return scores

    def _history(self, histories: list[Rows]) -> csr_matrix:
        """Return the histories as a matrix of ones (n, columns)."""
        owner = np.repeat(np.arange(len(histories)), [len(each) for each in histories])
        rows = np.concatenate(histories)
        positions = np.minimum(np.searchsorted(self.columns, rows), len(self.columns) - 1)
        known = self.columns[positions] == rows
        ones = np.ones(int(known.sum()), np.float32)
        return csr_matrix((ones, (owner[known], positions[known])), shape=(len(histories), len(self.columns)))

    def _scatter(self, scores: Floats) -> Floats:
        """Return scores of the columns as scores of the whole catalogue, 0 for all others."""
        out = np.zeros((len(scores), self._size), np.float32)
        out[:, self.columns] = scores
        return out
