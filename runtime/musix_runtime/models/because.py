"""The heard tracks that speak most for a recommendation, by the terms of the components."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from musix_runtime.models.arrays import ABSENT, Floats, RaggedRows, Rows, Scores, gather
from musix_runtime.models.ranker import COMPONENTS

if TYPE_CHECKING:
    from musix_runtime.models.retrieval import Retriever

MOST = 3  # tracks that are named for a recommendation
NEWEST = 50  # tracks of the profile that are considered
LEAST = 0.01  # share of a track that is named
_COLLAB, _CONTENT, _PREFERENCE = (COMPONENTS.index(name) for name in ("collab", "content", "preference"))


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
    known = heard != ABSENT
    collab, content, artists = retriever.collab, retriever.content, retriever.artists
    cosines = _products(content.vectors(heard), content.vectors(rows))
    positions, others = collab.places(heard), collab.places(rows)
    tastes = _products(gather(collab.tastes, positions), gather(collab.tastes, others))
    tastes *= (positions >= 0)[:, None] & (others >= 0)[:, :, None]
    terms = {_CONTENT: cosines, _COLLAB: tastes, _PREFERENCE: artists.kinship(heard, rows)}
    strength = np.zeros(cosines.shape, np.float32)
    for component, term in terms.items():
        term = np.maximum(term, 0) * known[:, None]
        total = np.maximum(values[..., component], 0)[..., None]
        strength += np.where(total > 0, total * term / np.maximum(term.sum(axis=2, keepdims=True), 1e-12), 0)
    whole = np.maximum(values[..., list(terms)], 0).sum(axis=2, keepdims=True)
    order = np.argsort(-strength, axis=2, kind="stable")[..., :MOST]
    shares = np.take_along_axis(strength, order, axis=2) / np.maximum(whole, 1e-12)
    named = np.take_along_axis(np.broadcast_to(heard[:, None], strength.shape), order, axis=2)
    return Causes(np.where(shares >= LEAST, named, ABSENT), shares.astype(np.float32))


def _heard(profiles: RaggedRows, current: Rows) -> Rows:
    """Return the current track and the newest of each profile, padded with ABSENT. Shape
    (batch, `NEWEST` + 1)."""
    sizes = np.minimum(profiles.sizes, NEWEST)
    starts = profiles.sizes.cumsum() - profiles.sizes
    places = np.arange(NEWEST)  # as many for any batch, so that sums over them do not depend on it
    rows = gather(profiles.values, starts[:, None] + places)
    return np.column_stack([current, np.where(places < sizes[:, None], rows, ABSENT)])


def _products(heard: Floats, proposed: Floats) -> Floats:
    """Return the inner products of vectors (batch, m, width) and (batch, n, width). Shape (batch, n, m)."""
    return np.einsum("bnw,bmw->bnm", proposed, heard)  # unlike matmul, the same in any batch
