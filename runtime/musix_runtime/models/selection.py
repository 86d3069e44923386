"""Selection of a list, track by track, by score and diversity (maximal marginal relevance)."""

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import Floats, Rows, Scores

LEVELS = 10  # diversity is rounded to tenths, so that a candidate has 11 possible scores
VECTOR_STEPS = np.float32(2048)  # to which content vectors are rounded for diversity: products of such are exact
_COLUMNS = LEVELS + 2  # of a candidate's table: -1 for one that was chosen, then its scores at each diversity


def pairwise_diversity(vectors: Floats) -> NDArray[np.uint8]:
    """Diversity of each of the vectors (batch, n, width), of length 1, beside each other: 1 minus their cosine, in
    whole tenths, from 0 to 10. Shape (batch, n, n)."""
    steps = np.rint(vectors * VECTOR_STEPS)
    found = VECTOR_STEPS * VECTOR_STEPS - np.matmul(steps, steps.transpose(0, 2, 1))
    found *= np.float32(LEVELS / 2048 / 2048)
    np.rint(found, out=found)
    return np.minimum(np.maximum(found, 0, out=found), LEVELS, out=found).astype(np.uint8)


def select_diverse(
    scores: Scores, diversity: NDArray[np.uint8], valid: NDArray[np.bool_], limits: Rows
) -> tuple[Rows, Rows]:
    """Choose up to `limits` (batch,) candidates of each request, one at a time, each the best beside those before it.

    `scores` (batch, n, 11) at each diversity, whole numbers, not below 0; `diversity` (batch, n, n) in tenths; equal
    ones go to the first. A candidate's diversity is that beside the chosen one most like it. Gives places among all
    candidates of the batch, end to end, in the order of their scores when they were chosen, and their diversities, both
    (batch, most); what is beyond a request's limit, or its candidates, is no choice.
    """
    batch, n = valid.shape
    table = np.full((batch * n, _COLUMNS), -1, np.float32)
    table[:, 1:] = scores.reshape(batch * n, -1)
    if not valid.all():
        table[~valid.ravel()] = -1
        limits = np.minimum(limits, valid.sum(axis=1))
    scores = table.ravel()
    first = np.arange(0, batch * n, n)
    gone = (np.arange(batch * n, dtype=np.int32) * np.int32(_COLUMNS)).reshape(batch, n)  # where a candidate's -1 is
    beside = (diversity + gone[:, None] + np.int32(1)).reshape(batch * n, n)
    beside.ravel()[np.arange(batch * n) * n + np.arange(batch * n) % n] = gone.ravel()
    now = gone + np.int32(_COLUMNS - 1)  # where each one's present score is
    picks = np.empty((max(int(limits.max()), 1), batch), np.int64)
    chosen = np.empty(picks.shape, np.int32)
    for i, pick in enumerate(picks):
        np.add(scores.take(now).argmax(axis=1), first, out=pick)
        now.take(pick, out=chosen[i], mode="clip")
        np.minimum(now, beside.take(pick, axis=0), out=now)
    picked = scores.take(chosen).astype(np.float64)
    picked[np.arange(len(picks))[:, None] >= limits] = -np.inf
    order = np.argsort(picks - picked * (batch * n), axis=0) * batch + np.arange(batch)
    return picks.take(order).T, (chosen % _COLUMNS - 1).take(order).T
