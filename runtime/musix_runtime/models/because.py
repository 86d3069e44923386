"""The heard tracks that speak most for a recommendation, by the terms of the components."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from musix_runtime.models.arrays import ABSENT, Floats, RaggedRows, Rows, Scores, gather

if TYPE_CHECKING:
    from musix_runtime.models.retrieval import Retriever

MOST = 3  # tracks that are named for a recommendation
NEWEST = 50  # tracks of the profile that are considered
LEAST = 0.01  # share of a track that is named
_COLLAB, _CONTENT, _PREFERENCE = range(3)  # the first of the COMPONENTS


@dataclass(frozen=True, slots=True)
class Causes:
    """For each recommendation, up to `MOST` rows of heard tracks, ABSENT for none, and their shares. Shapes
    (batch, n, `MOST`)."""

    rows: Rows
    shares: Floats


def causes(retriever: "Retriever", profiles: RaggedRows, current: Rows, rows: Rows, values: Scores) -> Causes:
    """Return the causes of the recommended `rows` (batch, n), whose Shapley values are `values` (batch, n, 5).

    The current track and the newest of the profile divide the positive values of three components among them: content
    by cosine, collab by co-listening, preference by artist. A share is a part of the sum of all three.
    """
    heard = _heard(profiles, current)
    terms = _terms(retriever, heard, rows)
    # The sums over the heard tracks run in their order, so they do not depend on the batch.
    totals = np.ascontiguousarray(terms.transpose(3, 0, 1, 2)).sum(axis=0)
    positive = np.maximum(values[..., : len(terms)], 0)
    whole = np.maximum(positive.sum(axis=2, keepdims=True), 1e-12)
    parts = ((positive / whole).transpose(2, 0, 1) / np.maximum(totals, 1e-12)).astype(np.float32)
    collab, content, preference = terms * parts[..., None]
    shares, heard_tracks = _largest(collab + content + preference)
    named = heard.take(heard_tracks + (np.arange(len(heard)) * heard.shape[1])[:, None, None])
    return Causes(np.where(shares >= LEAST, named, ABSENT), shares)


def _heard(profiles: RaggedRows, current: Rows) -> Rows:
    """Return the current track and up to `NEWEST` of each profile, padded with ABSENT. Shape (batch, m)."""
    sizes = np.minimum(profiles.sizes, NEWEST)
    starts = profiles.sizes.cumsum() - profiles.sizes
    places = np.arange(sizes.max())
    rows = gather(profiles.values, starts[:, None] + places)
    return np.column_stack([current, np.where(places < sizes[:, None], rows, ABSENT)])


def _terms(retriever: "Retriever", heard: Rows, rows: Rows) -> Floats:
    """Return how much each heard track (batch, m) speaks for each of the `rows` (batch, n), by collab, content and
    preference; nothing for ABSENT. Shape (3, batch, n, m)."""
    collab, content = retriever.collab, retriever.content
    terms = np.empty((3, *rows.shape, heard.shape[1]), np.float32)
    positions, others = collab.places(heard), collab.places(rows)
    _products(gather(collab.tastes, positions), gather(collab.tastes, others), terms[_COLLAB])
    terms[_COLLAB] *= (positions >= 0)[:, None] & (others >= 0)[:, :, None]
    _products(content.vectors(heard), content.vectors(rows), terms[_CONTENT])
    terms[_PREFERENCE] = retriever.artists.kinship(heard, rows)
    terms *= (heard != ABSENT)[:, None]
    return np.maximum(terms, 0, out=terms)


def _products(heard: Floats, proposed: Floats, out: Floats) -> None:
    """Write the inner products of vectors (batch, m, width) and (batch, n, width) to `out` (batch, n, m)."""
    np.einsum("bnw,bmw->bnm", proposed, heard, out=out)  # unlike matmul, the same in any batch


def _largest(strength: Floats) -> tuple[Floats, Rows]:
    """Return the `MOST` largest of (batch, n, m), largest first, and their places. Shapes (batch, n, `MOST`)."""
    batch, n, m = strength.shape
    starts = np.arange(0, batch * n * m, m).reshape(batch, n)
    values, places = np.empty((batch, n, MOST), np.float32), np.empty((batch, n, MOST), np.int64)
    for i in range(MOST):
        places[..., i] = strength.argmax(axis=2)
        flat = places[..., i] + starts
        values[..., i] = strength.take(flat)
        strength.put(flat, -1)
    return values, places
