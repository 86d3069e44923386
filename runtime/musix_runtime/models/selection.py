"""Selection of a list, track by track, by score, diversity (maximal marginal relevance) and artist."""

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import Floats, Rows, Scores

LEVELS = 10  # diversity is rounded to tenths, so that a candidate has 11 possible scores
VECTOR_STEPS = np.float32(2048)  # to which content vectors are rounded for diversity: products of such are exact
MAX_SCORE = 1_000_000
PAGE = 10  # tracks of a list: the first page of a longer list is the same
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
    scores: Scores,
    diversity: NDArray[np.uint8],
    valid: NDArray[np.bool_],
    limits: Rows,
    artists: Rows,
    max_per_artist: Rows,
) -> tuple[Rows, Rows, Rows]:
    """Choose up to `limits` (batch,) candidates of each request, one at a time, each the best beside those before it.

    `scores` (batch, n, 11) at each diversity, whole numbers, not below 0; `diversity` (batch, n, n) in tenths; of equal
    ones the first is chosen. A candidate's diversity is that beside the chosen one most like it. Each page of ten has
    at most `max_per_artist` (batch,) more tracks of one of the `artists` (batch, n), so a list is shorter if there are
    too few artists.

    Returns positions in the concatenated candidates of the batch and their diversities, both (batch, m), pages in the
    order of choice, and tracks of a page by the scores that they had then; and the lengths of the lists (batch,).
    """
    batch, n = valid.shape
    table = np.full((batch * n, _COLUMNS), -1, np.float32)
    table[:, 1:] = scores.reshape(batch * n, -1)
    table[~valid.ravel()] = -1
    scores = table.ravel()
    first = np.arange(0, batch * n, n)
    gone = (np.arange(batch * n, dtype=np.int32) * np.int32(_COLUMNS)).reshape(batch, n)  # where a candidate's -1 is
    beside = (diversity + gone[:, None] + np.int32(1)).reshape(batch * n, n)
    beside.ravel()[np.arange(batch * n) * n + np.arange(batch * n) % n] = gone.ravel()
    now = gone + np.int32(_COLUMNS - 1)  # where each one's present score is
    taken = np.zeros((batch, n), np.int32)  # chosen tracks of the candidate's artist
    picks = np.empty((-(-max(int(limits.max()), 1) // PAGE) * PAGE, batch), np.int64)
    chosen, found = np.empty(picks.shape, np.int32), np.empty(picks.shape, np.bool_)
    for i, pick in enumerate(picks):
        available = scores.take(now)
        available[taken >= (max_per_artist * (i // PAGE + 1))[:, None]] = -1
        np.add(available.argmax(axis=1), first, out=pick)
        np.greater_equal(available.take(pick), 0, out=found[i])
        now.take(pick, out=chosen[i], mode="clip")
        np.minimum(now, beside.take(pick, axis=0), out=now)
        taken += artists == artists.take(pick)[:, None]
    found = np.logical_and.accumulate(found, axis=0)
    picked = np.where(found, scores.take(chosen).astype(np.float64), -np.inf)
    pages = (np.arange(len(picks)) // PAGE)[:, None] * (2 * MAX_SCORE * batch * n)
    order = np.argsort(pages + picks - picked * (batch * n), axis=0) * batch + np.arange(batch)
    lengths = np.minimum(limits, found.sum(axis=0))
    return picks.take(order).T, (chosen % _COLUMNS - 1).take(order).T, lengths
