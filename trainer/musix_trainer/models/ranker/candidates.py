"""Candidates and their features, by the runtime's retriever, for one listener at a time."""

from dataclasses import replace

import numpy as np

from musix_runtime.models.arrays import ABSENT, Floats, Rows
from musix_runtime.models.candidate_features import CandidateFeatures, prefilter_by_blend
from musix_runtime.models.ranker import COMPONENTS, Ranker
from musix_runtime.models.retrieval import Candidates, Retriever, User
from musix_trainer.models.collab import CollabModel
from musix_trainer.recipe import Split


def known_user(retriever: Retriever, collab: CollabModel, number: int) -> tuple[User, Floats]:
    """Return a listener with factors, by number, and its content query (28,): the profile of its whole history."""
    history = retriever.collab.history(number)
    return User(collab.listener_factors[number], history, history), retriever.content.profile(history)


def measured_user(retriever: Retriever, collab: CollabModel, number: int, split: Split) -> tuple[User, Floats]:
    """Return a listener as `known_user` does, to measure lists against what was held out by this split."""
    user, query = known_user(retriever, collab, number)
    return replace(user, history=wrong_rows(retriever, user.history, split)), query


def wrong_rows(retriever: Retriever, history: Rows, split: Split) -> Rows:
    """Return the rows that no held-out track of a listener with this history can be: those of the history, and, split
    by artist, all others of its artists, which are then in no list that is measured."""
    if split.by != "artist":
        return history
    artists = retriever.artists
    return np.flatnonzero(np.isin(artists.track_artists, artists.of(history)))


def new_user(retriever: Retriever, history: Rows) -> tuple[User, Floats]:
    """Return a listener without factors, folded in from its history, and its content query (28,)."""
    return User(retriever.collab.fold_in(history), history, history), retriever.content.profile(history)


def recommend(retriever: Retriever, ranker: Ranker, user: User, query: Floats | None, limit: int) -> Rows:
    """Return the list of `limit` tracks that the runtime recommends, best first."""
    return select(retriever, ranker, user, query, limit)[0]


def select(retriever: Retriever, ranker: Ranker, user: User, query: Floats | None, limit: int) -> tuple[Rows, Floats]:
    """Return the list of `limit` tracks that the runtime recommends, best first, and their components (n, 5)."""
    rows = retrieve_candidates(retriever, user, query, limit)
    features = compute_features(retriever, user, query, rows, limit)
    picks, components, lengths = ranker.select(features, serving_context(user)[None], np.array([limit]))
    length = int(lengths[0])
    return np.asarray(features.rows[0, picks[0, :length]]), components[0, :length]


def retrieve_candidates(retriever: Retriever, user: User, content: Floats | None, limit: int) -> Rows:
    """Return the candidates for a list of `limit` tracks: outside of the user's history, near to a content vector
    (28,)."""
    excluded = user.history if user.current == ABSENT else np.append(user.history, user.current)
    candidates = retriever.retrieve(retriever.query(user, content, excluded, limit))
    return candidates.rows[candidates.valid]


def compute_features(
    retriever: Retriever, user: User, content: Floats | None, rows: Rows, limit: int | None = None
) -> CandidateFeatures:
    """Return the features of the rows (n,) as a batch of one.

    With a `limit`, only of the rows that the ranker scores for a list of that many tracks.
    """
    query = retriever.query(user, content, rows[:0], limit or 1)
    best = query.factors[:, 0] if user.factors is None else retriever.collab.scorer(user.factors).best
    features = retriever.features(query, Candidates(rows[None], np.ones((1, len(rows)), bool), best))
    if limit is None:
        return features
    weights = np.array([retriever.serving.blend[name] for name in COMPONENTS], np.float32)
    return prefilter_by_blend(features, weights, np.array([max(retriever.serving.pool, limit)]))


def serving_context(user: User) -> Floats:
    """Return the context of a request that does not tell the hour: number of heard tracks and NaN. Shape (2,).

    These are the profile: the history can have more rows that are not to be recommended.
    """
    return np.array([len(user.profile_items), np.nan], np.float32)
