"""Resolve: rows, factors and vectors for the ids in a batch of requests, as the query of the retriever."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models import filters
from musix_runtime.models.arrays import ABSENT, Floats, RaggedRows, Rows, gather
from musix_runtime.models.catalog import Catalog, strip_uri
from musix_runtime.models.exclusion import ExcludedIds
from musix_runtime.models.retrieval import RetrievalQuery, Retriever
from musix_runtime.schemas import RecommendRequest

MAX_UNKNOWN = 100  # ids that a response names as unknown
MAX_LOOKUPS = 100  # excluded ids that are looked up; longer lists are compared with the candidates
SOURCES = ("hybrid", "collab", "history", "content", "popular")  # of a response: see `_source`


@dataclass(frozen=True, slots=True)
class Resolved:
    """The query of the retriever, the rows of the current tracks (batch,), ABSENT for none, the context of the ranker
    (batch, 2), the source of each response, and the ids of each request that are not in the catalogue."""

    query: RetrievalQuery
    current: Rows
    context: Floats
    sources: list[str]
    unknown_ids: list[list[str]]


@dataclass(frozen=True, slots=True)
class _Ids:
    """Rows of the tracks in a request: the current one, its history, and the excluded ones; and the unknown ids of the
    first two."""

    current: int
    history: Rows
    excluded: Rows
    unknown: list[str]


def resolve(requests: Sequence[RecommendRequest], catalog: Catalog, retriever: Retriever) -> Resolved:
    """Resolve a batch of requests.

    A known user has factors; those of an unknown user are folded in from the history of the request. The profile of the
    history and the current track are the content query; there is none for a current track that is unknown. Excluded
    tracks and the current track are never candidates, nor those of any history unless `include_heard` is set.

    Raises RequestError for filters with unknown names.
    """
    collab = retriever.collab
    users = [collab.listeners.find_one(request.user_id) for request in requests]
    request_rows = _request_rows(requests, catalog)
    histories = [_history(retriever, user, ids) for user, ids in zip(users, request_rows, strict=True)]
    recent = [
        rows if user == ABSENT else rows[: collab.count(user, request.time_range)]
        for user, rows, request in zip(users, histories, requests, strict=True)
    ]
    profile_items = RaggedRows.of(recent)
    excluded = [
        np.concatenate([*(() if request.include_heard else (rows, ids.history)), [ids.current], ids.excluded])
        for request, rows, ids in zip(requests, histories, request_rows, strict=True)
    ]
    factors, has_factors = _factors(retriever, users, request_rows)
    current = np.array([ids.current for ids in request_rows])
    vectors, has_content = retriever.content_queries(profile_items, current)
    has_content &= np.array([request.current_track_id is None for request in requests]) | (current != ABSENT)
    vectors[~has_content] = 0
    hours = [np.nan if request.context.hour is None else request.context.hour for request in requests]
    context = np.array([list(map(len, histories)), hours], np.float32).T
    affinities = retriever.artist_affinities(profile_items, current)
    masks = [filters.passing(request.filters, catalog) for request in requests]
    query = RetrievalQuery(
        limits=np.array([request.limit for request in requests]),
        factors=factors,
        has_factors=has_factors,
        content=vectors,
        has_content=has_content,
        profile_items=profile_items,
        artists=affinities,
        taste=retriever.taste(profile_items, current),
        max_per_artist=retriever.max_per_artist([request.max_per_artist for request in requests], affinities),
        excluded=RaggedRows.of(excluded),
        excluded_ids={
            i: _excluded_ids(request.exclude_ids, catalog)
            for i, request in enumerate(requests)
            if len(request.exclude_ids) > MAX_LOOKUPS
        },
        passing={i: mask for i, mask in enumerate(masks) if mask is not None},
    )
    sources = list(map(_source, users, has_factors.tolist(), has_content.tolist()))
    unknown = [ids.unknown for ids in request_rows]
    return Resolved(query, current, np.ascontiguousarray(context), sources, unknown)


def forget_user(resolved: Resolved, retriever: Retriever, max_per_artist: Sequence[int | None]) -> Resolved:
    """Return a batch as if nothing were known of its users, and nothing were playing. What is excluded stays excluded.

    `max_per_artist` are those of the requests.
    """
    query, batch = resolved.query, len(resolved.query)
    no_items, nobody = RaggedRows.of([np.empty(0, np.int64)] * batch), np.zeros(batch, bool)
    affinities = retriever.artist_affinities(no_items, np.full(batch, ABSENT))
    anonymous = replace(
        query,
        factors=np.zeros_like(query.factors),
        has_factors=nobody,
        content=np.zeros_like(query.content),
        has_content=nobody,
        profile_items=no_items,
        artists=affinities,
        taste=np.zeros_like(query.taste),
        max_per_artist=retriever.max_per_artist(max_per_artist, affinities),
    )
    context = resolved.context.copy()
    context[:, 0] = 0  # length of the history
    return replace(
        resolved,
        query=anonymous,
        current=np.full(batch, ABSENT),
        context=context,
        sources=["popular"] * batch,
    )


def _excluded_ids(track_ids: Sequence[str], catalog: Catalog) -> ExcludedIds:
    ids = {strip_uri(track_id) for track_id in track_ids}
    return ExcludedIds(len(ids), lambda rows: catalog.has_any_id(rows, ids))


def _request_rows(requests: Sequence[RecommendRequest], catalog: Catalog) -> list[_Ids]:
    """Return the rows of the tracks in each request, after one lookup for all requests."""
    track_ids: list[str] = []
    bounds = []
    for request in requests:
        start = len(track_ids)
        track_ids.append(request.current_track_id or "")
        track_ids += request.history or ()
        middle = len(track_ids)
        if len(request.exclude_ids) <= MAX_LOOKUPS:
            track_ids += request.exclude_ids
        bounds.append((start, middle, len(track_ids)))
    rows = catalog.rows(track_ids)
    results = []
    for start, middle, stop in bounds:
        history = rows[start + 1 : middle]
        absent = (rows[start:middle] == ABSENT).nonzero()[0].tolist()
        unknown = [*dict.fromkeys(track_ids[start + i] for i in absent if track_ids[start + i])][:MAX_UNKNOWN]
        results.append(_Ids(int(rows[start]), history[history != ABSENT], rows[middle:stop], unknown))
    return results


def _history(retriever: Retriever, user: int, ids: _Ids) -> Rows:
    """Return the history of a known user; for an unknown user, that of the request."""
    return ids.history if user == ABSENT else retriever.collab.history(user)


def _factors(retriever: Retriever, users: list[int], request_rows: list[_Ids]) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the collab query of each user, and whether the user has factors."""
    collab = retriever.collab
    numbers = np.array(users)
    has_factors = numbers != ABSENT
    factors = collab.queries(gather(collab.listener_factors, numbers))
    for i in (~has_factors).nonzero()[0].tolist():
        folded = collab.fold_in(request_rows[i].history) if len(request_rows[i].history) else None
        factors[i] = 0
        if folded is not None:
            factors[i], has_factors[i] = collab.queries(folded[None])[0], True
    return factors, has_factors


def _source(user: int, has_factors: bool, has_content: bool) -> str:
    """Return the source of a response: both collab and content for a known or unknown user, one of them, or none."""
    if not has_factors:
        return "content" if has_content else "popular"
    if not has_content:
        return "collab"
    return "history" if user == ABSENT else "hybrid"
