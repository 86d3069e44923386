"""Resolve: from the ids in a batch of requests to rows, factors and vectors: what the retriever is asked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import ABSENT, Floats, RaggedRows, Rows, gather
from musix_runtime.models.catalog import Catalog, bare
from musix_runtime.models.retrieval import ExcludedIds, RetrievalQuery, Retriever
from musix_runtime.schemas import RecommendRequest

MANY_IDS = 100  # excluded ids, of which more are not looked up


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a batch of requests comes to: what the retriever is asked, the ranker's context (batch, 2), and the source
    of each answer."""

    query: RetrievalQuery
    context: Floats
    sources: list[str]


@dataclass(frozen=True, slots=True)
class _Ids:
    """Rows of the tracks that a request names: the current one, its history, and what it excludes."""

    current: int
    history: Rows
    excluded: Rows


def resolve(requests: Sequence[RecommendRequest], catalog: Catalog, retriever: Retriever) -> Resolved:
    """Resolve a batch of requests.

    A known user is matched by factors, an unknown one with a history by folding it in; the current track, or else what
    was heard, is the query for content. Never proposed: excluded tracks, the current one, and those in any history.
    """
    collab = retriever.collab
    users = [collab.listeners.find_one(each.user_id) for each in requests]
    named = _rows_named(requests, catalog)
    histories = [_history(retriever, user, ids) for user, ids in zip(users, named, strict=True)]
    recent = [
        rows if user == ABSENT else rows[: collab.count(user, each.time_range)]
        for user, rows, each in zip(users, histories, requests, strict=True)
    ]
    profile_items = RaggedRows.of(recent)
    excluded = [
        np.concatenate([rows, [ids.current], ids.excluded, ids.history]) if _names(ids) else rows
        for rows, ids in zip(histories, named, strict=True)
    ]
    factors, has_factors = _factors(retriever, users, named)
    vectors, has_content = _content(requests, named, retriever, profile_items)
    hours = [np.nan if each.context.hour is None else each.context.hour for each in requests]
    context = np.array([list(map(len, histories)), hours], np.float32).T
    query = RetrievalQuery(
        limits=np.array([each.limit for each in requests]),
        factors=factors,
        has_factors=has_factors,
        content=vectors,
        has_content=has_content,
        profile_items=profile_items,
        excluded=RaggedRows.of(excluded),
        excluded_ids={
            i: _excluded_ids(each.exclude_ids, catalog)
            for i, each in enumerate(requests)
            if len(each.exclude_ids) > MANY_IDS
        },
    )
    found = zip(users, has_factors.tolist(), has_content.tolist(), strict=True)
    return Resolved(query, np.ascontiguousarray(context), [_source(*each) for each in found])


def _excluded_ids(track_ids: Sequence[str], catalog: Catalog) -> ExcludedIds:
    ids = {bare(each) for each in track_ids}
    return ExcludedIds(len(ids), lambda rows: catalog.has_any_id(rows, ids))


def _names(ids: _Ids) -> bool:
    return ids.current != ABSENT or len(ids.history) > 0 or len(ids.excluded) > 0


def _rows_named(requests: Sequence[RecommendRequest], catalog: Catalog) -> list[_Ids]:
    """The rows that each request names, looked up together."""
    texts: list[str] = []
    cuts = []
    for each in requests:
        start = len(texts)
        texts.append(each.current_track_id or "")
        texts += each.history or ()
        middle = len(texts)
        if len(each.exclude_ids) <= MANY_IDS:
            texts += each.exclude_ids
        cuts.append((start, middle, len(texts)))
    rows = catalog.rows(texts)
    found = []
    for start, middle, stop in cuts:
        history = rows[start + 1 : middle]
        found.append(_Ids(int(rows[start]), history[history != ABSENT], rows[middle:stop]))
    return found


def _history(retriever: Retriever, user: int, ids: _Ids) -> Rows:
    """What a user is known to have heard; of an unknown one, what the request says."""
    return ids.history if user == ABSENT else retriever.collab.history(user)


def _factors(retriever: Retriever, users: list[int], named: list[_Ids]) -> tuple[Floats, NDArray[np.bool_]]:
    """Factors of each user, as the index is asked, and whether there are any."""
    collab = retriever.collab
    numbers = np.array(users)
    has_factors = numbers != ABSENT
    factors = collab.queries(gather(collab.listener_factors, numbers))
    for i in (~has_factors).nonzero()[0].tolist():
        folded = collab.fold_in(named[i].history) if len(named[i].history) else None
        factors[i] = 0
        if folded is not None:
            factors[i], has_factors[i] = collab.queries(folded[None])[0], True
    return factors, has_factors


def _content(
    requests: Sequence[RecommendRequest], named: list[_Ids], retriever: Retriever, profile_items: RaggedRows
) -> tuple[Floats, NDArray[np.bool_]]:
    """What content shall be near to: the current track, when it is known; when none is given, what was heard."""
    current = np.array([ids.current for ids in named])
    by_profile = np.array([each.current_track_id is None for each in requests]) & (profile_items.sizes > 0)
    vectors = retriever.content.vectors(current)
    if by_profile.any():
        vectors[by_profile] = retriever.content.profiles(profile_items)[by_profile]
    has_content = by_profile | (current != ABSENT)
    vectors[~has_content] = 0
    return vectors, has_content


def _source(user: int, has_factors: bool, has_content: bool) -> str:
    """Which way the tracks are found: by both, and how the user is known; or by only one of collab and content."""
    if not has_factors:
        return "content" if has_content else "popular"
    if not has_content:
        return "collab"
    return "history" if user == ABSENT else "hybrid"
