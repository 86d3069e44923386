"""Learning curve of LightFM's factors: how well they rank held-out tracks. It reads the model, and changes nothing."""

import numpy as np
from lightfm import LightFM
from scipy.sparse import csr_matrix

from musix_trainer import curves
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation import metrics

N_LISTENERS = 200
N_POINTS = 10
K = 10


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

    def record(self, epoch: int, model: LightFM, item_features: csr_matrix | None) -> None:
        """Record the metric after an epoch, counted from 1; only after some epochs, and if there are such listeners."""
        if epoch % self._step or not len(self._listeners):
            return
        items = np.column_stack([model.item_embeddings, model.item_biases])
        items = items if item_features is None else item_features @ items
        scores = model.user_embeddings[self._listeners] @ items[:, :-1].T + items[:, -1]
        ranks = metrics.full_ranks(scores, self._history, self._relevant)
        curves.record("collab", epoch, **{f"validation_ndcg_at_{K}": float(metrics.ndcg(ranks, K).mean())})
