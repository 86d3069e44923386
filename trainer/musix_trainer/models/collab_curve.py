"""Learning curve of LightFM's factors: how well they rank held-out tracks. It reads the model, and changes nothing."""

import numpy as np
from lightfm import LightFM
from scipy.sparse import csr_matrix

from musix_trainer import curves, progress
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation import metrics

N_LISTENERS = 200
N_POINTS = 10
K = 10
OVERFITTED = 0.1  # share of the best value that may be lost without a warning


class CollabCurve:
    """Records the NDCG@10 of some listeners' held-out tracks, among all tracks outside of their histories.

    `data` are the training interactions, over whose listeners and rows, in ascending order, the model has factors.
    """

    def __init__(self, data: Interactions, held_out: Interactions, epochs: int) -> None:
        listeners, rows = np.unique(data.listener), np.unique(data.row)

        def matrix(pairs: Interactions) -> csr_matrix:
            known = np.isin(pairs.listener, listeners) & np.isin(pairs.row, rows)
            places = np.searchsorted(listeners, pairs.listener[known]), np.searchsorted(rows, pairs.row[known])
            return csr_matrix((np.ones(int(known.sum()), np.float32), places), (len(listeners), len(rows)))

        relevant = matrix(held_out)
        able = np.flatnonzero(np.diff(relevant.indptr))
        self._listeners = able[np.unique(np.linspace(0, len(able) - 1, min(len(able), N_LISTENERS)).astype(np.int64))]
        self._history, self._relevant = matrix(data)[self._listeners], relevant[self._listeners]
        self._step = max(epochs // N_POINTS, 1)
        self._found: dict[int, float] = {}

    def record(self, epoch: int, model: LightFM, item_features: csr_matrix | None) -> None:
        """Record the metric after an epoch, counted from 1; only after some epochs, and if there are such listeners."""
        if epoch % self._step or not len(self._listeners):
            return
        items = np.column_stack([model.item_embeddings, model.item_biases])
        items = items if item_features is None else item_features @ items
        scores = model.user_embeddings[self._listeners] @ items[:, :-1].T + items[:, -1]
        ranks = metrics.full_ranks(scores, self._history, self._relevant)
        self._found[epoch] = float(metrics.ndcg(ranks, K).mean())
        curves.record("collab", epoch, **{f"validation_ndcg_at_{K}": self._found[epoch]})

    def warn(self) -> None:
        """Say so if fewer epochs were clearly better: the model then learned the training tracks by heart."""
        if not self._found:
            return
        last, best = max(self._found), max(self._found, key=self._found.__getitem__)
        if self._found[last] < (1 - OVERFITTED) * self._found[best]:
            progress.say(
                f"collab: NDCG@{K} of validation was {self._found[best]:.3g} after {best} epochs, and is"
                f" {self._found[last]:.3g} after {last}: set epochs = {best} in [collab] of the recipe"
            )
