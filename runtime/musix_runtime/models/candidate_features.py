"""Candidate features: the inputs of the ranker for every candidate of a batch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import ABSENT, Floats, RaggedRows, Rows, gather
from musix_runtime.models.ranker import COMPONENTS, MICRO
from musix_runtime.models.selection import PAGE

if TYPE_CHECKING:
    from musix_runtime.models.retrieval import Candidates, RetrievalQuery, Retriever

GENRE_AFFINITY_WEIGHT = np.float32(0.2)  # of preference, for a track of the user's most frequent family
KEY_BITS = 36  # of a key: five components of at most a million each, times the number of candidates


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
    n = features.rows.shape[1]
    kept = min(n, int(sizes.max()))
    blend = np.einsum("bki,i->bk", features.components, weights * np.float32(MICRO))
    order = np.rint(blend).astype(np.int64) * n - np.arange(n)
    pages = -(-sizes // PAGE)
    allowed = (
        _ranks_within(np.where(features.valid, features.artists, ABSENT), order)
        < (features.max_per_artist * pages)[:, None]
    )
    keys = np.where(features.valid & allowed, order.astype(np.float64), -np.inf)
    chosen = np.sort(np.argpartition(keys, n - kept, axis=1)[:, n - kept :], axis=1)
    flat = chosen + (np.arange(len(keys)) * n)[:, None]
    valid = (features.valid & allowed).take(flat)
    if (sizes < kept).any():
        ordered = np.sort(keys, axis=1)
        valid &= keys.take(flat) >= ordered[np.arange(len(keys)), np.maximum(n - sizes, 0)][:, None]
    vectors = features.vectors.reshape(-1, features.vectors.shape[2]).take(flat, axis=0)
    components = features.components.reshape(-1, len(COMPONENTS)).take(flat, axis=0)
    rows, artists = features.rows.take(flat), features.artists.take(flat)
    return CandidateFeatures(rows, valid, vectors, components, artists, features.max_per_artist)


def _ranks_within(groups: Rows, keys: Rows) -> Rows:
    """Return the rank of each key among those of its group in the same row, 0 for the largest. Shape (batch, n)."""
    order = np.argsort((groups << KEY_BITS) - keys, axis=1)
    ordered = np.take_along_axis(groups, order, axis=1)
    places = np.broadcast_to(np.arange(groups.shape[1]), groups.shape)
    starts = np.where(ordered != np.roll(ordered, 1, axis=1), places, 0)
    ranks = np.empty(groups.shape, np.int64)
    np.put_along_axis(ranks, order, places - np.maximum.accumulate(starts, axis=1), axis=1)
    return ranks
