"""Candidate features: the inputs of the ranker for every candidate of a batch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import Floats, RaggedRows, Rows, gather
from musix_runtime.models.ranker import COMPONENTS, MICRO
from musix_runtime.models.selection import PAGE

if TYPE_CHECKING:
    from musix_runtime.models.retrieval import Candidates, RetrievalQuery, Retriever

GENRE_AFFINITY_WEIGHT = np.float32(0.2)  # of preference, for a track of the user's most frequent family
KEY_BITS = 36  # of a key: five components of at most a million each, times the number of candidates
_LARGEST, _LAST = (1 << KEY_BITS) - 1, np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class CandidateFeatures:
    """Catalogue rows (batch, n), a mask of the valid ones, their content vectors (batch, n, 28), components
    (batch, n, 5) and artists (batch, n); and how many tracks of one artist a page of each list may have (batch,)."""

    rows: Rows
    valid: NDArray[np.bool_]
    vectors: Floats
    components: Floats
    artists: Rows
    max_per_artist: Rows


def extract(retriever: "Retriever", query: "RetrievalQuery", candidates: "Candidates") -> CandidateFeatures:
    """Return the five components of each candidate, all in 0..1.

    - collab: the affinity by factors, of which it has the share `serving.factors`, and the item affinity of the user's
      taste to the track; 0 for tracks without listeners; the popularity if nothing is known about the user.
    - content: cosine with the query's content vector, at least 0.
    - preference: 1 - (1 - a)(1 - b / 5), where a is the preference for the track's artist, and b the share of the
      track's family in the profile, divided by that of the most frequent family.
    - freshness.
    - diversity: 1, since nothing has been selected yet.
    """
    collab, rows = retriever.collab, candidates.rows
    vectors = retriever.content.vectors(rows)
    positions = collab.places(rows)
    components = np.empty((*rows.shape, len(COMPONENTS)), np.float32)
    share = np.float32(retriever.serving.factors)
    components[..., 0] = share * collab.affinities(positions, query.factors, candidates.best)
    item_affinity = collab.item_affinities(positions, query.taste)
    components[..., 0] += (1 - share) * item_affinity
    cosines = np.einsum("bkd,bd->bk", vectors, query.content)
    components[..., 1] = np.minimum(np.maximum(cosines, 0, out=cosines), 1, out=cosines)
    artist_affinity = retriever.artists.preferences(query.artists, rows)
    genre_affinity = _genre_affinities(retriever.families, retriever.n_families, query.profile_items, rows)
    components[..., 2] = 1 - (1 - artist_affinity) * (1 - GENRE_AFFINITY_WEIGHT * genre_affinity)
    components[..., 3] = gather(retriever.freshness, rows)
    components[..., 4] = 1
    unknown = ~(query.has_factors | query.has_content)
    components[unknown, :, 0] = gather(retriever.popularity, rows[unknown])
    artists = retriever.artists.of(rows)
    return CandidateFeatures(rows, candidates.valid, vectors, components, artists, query.max_per_artist)


def _genre_affinities(families: NDArray[np.uint32], count: int, history: RaggedRows, rows: Rows) -> Floats:
    """Return the largest share of any family of each row. The share of a family is its number of tracks in the history,
    divided by that of the most frequent family. Shape (batch, n)."""
    bits = np.uint32(1) << np.arange(count, dtype=np.uint32)
    counts = history.sums(gather(families, history.values)[:, None] & bits != 0)
    shares = counts / np.maximum(counts.max(axis=1, keepdims=True), 1)
    return ((gather(families, rows) & bits[:, None, None] != 0) * shares.T[:, :, None]).max(axis=0)


def prefilter_by_blend(features: CandidateFeatures, weights: Floats, sizes: Rows) -> CandidateFeatures:
    """Return the `sizes` (batch,) candidates of each request with the largest weighted sums of components, in their
    order. `weights` (5,). Sums are compared as whole millionths; of equal ones the first is kept. Of one artist, as
    many are kept as lists of these sizes may have."""
    batch, n = features.rows.shape
    kept = min(n, int(sizes.max()))
    blend = np.rint(np.einsum("bki,i->bk", features.components, weights * np.float32(MICRO)))
    worse = _LARGEST - blend.astype(np.int64) * n - np.arange(n - 1, -1, -1)  # all different: the last digit is a place
    keys = np.where(features.valid, (features.artists << KEY_BITS) + worse, _LAST)
    keys.sort(axis=1)  # by artist, the best first
    before = np.arange(n) - (features.max_per_artist * -(-sizes // PAGE))[:, None]  # a track of another artist, or none
    artists, starts = keys >> KEY_BITS, np.arange(0, batch * n, n)[:, None]
    too_many = (before >= 0) & (artists.take(before + starts, mode="clip") == artists)
    keys = np.where(too_many | (keys == _LAST), _LAST, keys & _LARGEST)
    keys.sort(axis=1)  # the best first
    keys = keys[:, :kept]
    chosen = n - 1 - (_LARGEST - keys) % n
    chosen[(keys == _LAST) | (np.arange(kept) >= sizes[:, None])] = n
    chosen.sort(axis=1)
    flat = np.minimum(chosen, n - 1) + starts
    vectors = features.vectors.reshape(-1, features.vectors.shape[2]).take(flat, axis=0)
    components = features.components.reshape(-1, len(COMPONENTS)).take(flat, axis=0)
    rows, artists = features.rows.take(flat), features.artists.take(flat)
    return CandidateFeatures(rows, chosen < n, vectors, components, artists, features.max_per_artist)
