"""Candidate retrieval: the tracks that may be recommended to each user of a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from musix_runtime.bundle.manifest import Serving
from musix_runtime.models import candidate_features
from musix_runtime.models.arrays import ABSENT, Floats, RaggedRows, Rows, gather, unit
from musix_runtime.models.artists import ArtistAffinities, Artists
from musix_runtime.models.candidate_features import CandidateFeatures
from musix_runtime.models.collab import Collab
from musix_runtime.models.content import Content
from musix_runtime.models.exclusion import ExcludedIds, ExclusionFilter
from musix_runtime.models.index import Index, Mask
from musix_runtime.models.selection import PAGE

CURRENT_PLAYS = 5  # tracks of its artist that the current track counts as
CURRENT_TASTE = np.float32(0.3)  # share of the current track in co-listening
MAX_PER_ARTIST = 3  # tracks of one artist on a page, by default
MAX_OVERFETCH = 256  # additional tracks to search for, as some are excluded; more only if too few remain
OVERFETCH_GROWTH = 4


@dataclass(frozen=True, slots=True)
class User:
    """A user: factors (51,), the catalogue rows of the whole history, and those of the requested time range, which are
    the profile; and the row of the current track, if any."""

    factors: Floats | None
    history: Rows
    profile_items: Rows
    current: int = ABSENT


ANONYMOUS = User(None, np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True)
class RetrievalQuery:
    """The queries of a batch: `limits` (batch,), the numbers of tracks; factors (batch, 51) and content vectors
    (batch, 28), zeros if there are none; the profiles; the affinities to artists and the `taste` (batch, taste_width),
    by profile and current track; how many tracks of one artist a page of each list may have (batch,); and the excluded
    rows. `excluded_ids` has the requests with many excluded ids, `passing` those with filters, by position: whether
    each row passes them (tracks,).

    The last factor is 1: see `Collab.queries`.
    """

    limits: Rows
    factors: Floats
    has_factors: NDArray[np.bool_]
    content: Floats
    has_content: NDArray[np.bool_]
    profile_items: RaggedRows
    artists: ArtistAffinities
    taste: Floats
    max_per_artist: Rows
    excluded: RaggedRows
    excluded_ids: Mapping[int, ExcludedIds] = field(default_factory=dict)
    passing: Mapping[int, Mask] = field(default_factory=dict)

    def n_excluded(self) -> Rows:
        """Return an upper bound of the number of tracks that each request excludes. Shape (batch,)."""
        found = self.excluded.sizes.copy()
        for i, ids in self.excluded_ids.items():
            found[i] += ids.count
        return found

    def __len__(self) -> int:
        return len(self.limits)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Catalogue rows (batch, n), ascending, with a mask of the valid ones. `best` (batch,): the product of each user's
    factors with those of the best track."""

    rows: Rows
    valid: NDArray[np.bool_]
    best: Floats


@dataclass(frozen=True)
class Retriever:
    """Retrieves candidates from the indexes of collab and content, and from the artists of the profile. Arrays have one
    row for each track."""

    artists: Artists
    collab: Collab
    content: Content
    families: NDArray[np.uint32]  # bit i: the track is of family i
    freshness: Floats  # 0..1, 1 = released last
    popularity: Floats  # 0..1, 1 = most listeners
    popular: NDArray[np.int32]  # the most popular rows, best first
    serving: Serving

    def query(self, user: User, content: Floats | None, excluded: Rows, limit: int) -> RetrievalQuery:
        """Return a batch of one query: for a user, and a content vector (28,) if there is one."""
        profile_items, current = RaggedRows.of([user.profile_items]), np.array([user.current])
        affinities = self.artist_affinities(profile_items, current)
        factors = np.zeros((1, len(self.collab.track_mean)), np.float32)
        if user.factors is not None:
            factors = self.collab.queries(user.factors[None])
        return RetrievalQuery(
            limits=np.array([limit]),
            factors=factors,
            has_factors=np.array([user.factors is not None]),
            content=np.zeros((1, self.content.width), np.float32) if content is None else content[None],
            has_content=np.array([content is not None]),
            profile_items=profile_items,
            artists=affinities,
            taste=self.taste(profile_items, current),
            max_per_artist=self.max_per_artist([None], affinities),
            excluded=RaggedRows.of([excluded]),
        )

    def content_query(self, user: User) -> Floats | None:
        """Return the content vector (28,) that `content_queries` has for a user, None if it has none."""
        queries, has_content = self.content_queries(RaggedRows.of([user.profile_items]), np.array([user.current]))
        return queries[0] if has_content[0] else None

    def content_queries(self, profile_items: RaggedRows, current: Rows) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the content vector of each request (batch, 28), and whether it has one: half of it is the profile, and
        half the current track, or all of it if only one of the two is known."""
        has_current = current != ABSENT
        queries = self.content.profiles(profile_items)
        if has_current.any():
            queries[has_current] = unit(queries[has_current] + self.content.vectors(current[has_current]))
        return queries, has_current | (profile_items.sizes > 0)

    def artist_affinities(self, profile_items: RaggedRows, current: Rows) -> ArtistAffinities:
        """Return the affinities to artists. The current track counts as `CURRENT_PLAYS` tracks of the profile."""
        return self.artists.affinities(profile_items.with_rows(current, CURRENT_PLAYS))

    def max_per_artist(self, requested: Sequence[int | None], affinities: ArtistAffinities) -> Rows:
        """Return how many tracks of one artist a page of each list may have. Shape (batch,).

        By default `MAX_PER_ARTIST`, or any number for a profile of one artist.
        """
        artists = np.bincount(affinities.keys[affinities.heard > 0] // len(self.artists), minlength=len(requested))
        defaults = np.where(artists == 1, PAGE, MAX_PER_ARTIST).tolist()
        return np.array([default if each is None else each for each, default in zip(requested, defaults, strict=True)])

    def taste(self, profile_items: RaggedRows, current: Rows) -> Floats:
        """Return the co-occurrence embedding of each request's profile, with a share of the current track."""
        taste = self.collab.taste(profile_items)
        if (playing := (current != ABSENT).nonzero()[0]).size:
            one = self.collab.taste(RaggedRows(current[playing], np.ones(len(playing), np.int64)))
            taste[playing] = (1 - CURRENT_TASTE) * taste[playing] + CURRENT_TASTE * one
        return taste

    def retrieve(self, query: RetrievalQuery) -> Candidates:
        """Return the nearest tracks by factors and by content, `serving.candidates` of each or as many as requested, if
        that is more; about twice as many of the profile's artists and artists like these; twice as many popular ones if
        there are neither factors nor content. Excluded tracks are left out.

        A request with filters gets the nearest of the tracks that pass them, and popular ones as well. There are at
        least as many as requested, or with filters of as many artists as are nearest, if the catalogue has them.
        """
        allowed = ExclusionFilter(query.excluded, self._n_rows, query.excluded_ids, query.passing)
        counts = np.maximum(query.limits, self.serving.candidates)
        best = self.collab.averages(query.factors)
        sources = []
        if (active := query.has_factors.nonzero()[0]).size:
            rows, products = self._nearest(self.collab.index, query.factors, active, counts, query, allowed)
            best[active] = np.fmax(products, best[active])
            if filtered := [request for request in active.tolist() if request in query.passing]:
                _, products = self.collab.index.search(query.factors[filtered], [1] * len(filtered))
                best[filtered] = np.fmax(products[:, 0], best[filtered])  # of all tracks, as for other requests
            sources.append(rows)
        if (active := query.has_content.nonzero()[0]).size:
            rows, _ = self._nearest(self.content.index, query.content, active, counts, query, allowed)
            sources.append(rows)
        if len(query.artists.keys):
            rows = self.artists.candidates(query.artists, 2 * counts)
            allowed_rows = allowed.allows(np.arange(len(query)), rows)
            sources.append(np.where(allowed_rows, rows, self._n_rows))
        popular = ~(query.has_factors | query.has_content)
        popular[list(query.passing)] = True
        if (active := popular.nonzero()[0]).size:
            sources.append(self._most_popular(active, counts, allowed))
        sources.append(np.full((len(query), 1), self._n_rows))  # so that there is always a column
        rows = np.concatenate(sources, axis=1)
        rows.sort(axis=1)
        rows = rows[:, : max(int((rows < self._n_rows).sum(axis=1).max()), 1)]
        valid = rows < self._n_rows
        valid[:, 1:] &= rows[:, 1:] != rows[:, :-1]
        lacking = query.limits - valid.sum(axis=1)
        for i in query.passing:  # the limits by artist would end a list that has few of them
            lacking[i] = counts[i] - len(np.unique(self.artists.of(rows[i, valid[i]])))
        return self._backfilled(Candidates(rows, valid, best), query, lacking, allowed)

    def features(self, query: RetrievalQuery, candidates: Candidates) -> CandidateFeatures:
        """Return the features of each candidate."""
        return candidate_features.extract(self, query, candidates)

    def recall(self, query: RetrievalQuery) -> dict[str, float]:
        """Return, for the part of each index that answers a batch of one query, the share of the exact
        `serving.candidates` nearest that its search finds: see `Index.recall`."""
        searches = (
            ("collab", self.collab.index, query.factors, query.has_factors),
            ("content", self.content.index, query.content, query.has_content),
        )
        count = self.serving.candidates
        return {name: index.recall(vectors[0], count) for name, index, vectors, has in searches if has[0]}

    @cached_property
    def n_families(self) -> int:
        """The number of families that the tracks have."""
        return max(int(self.families.max(initial=0)).bit_length(), 1)

    @cached_property
    def _n_rows(self) -> int:
        return len(self.popularity)

    def _nearest(
        self,
        index: Index,
        queries: Floats,
        active: Rows,
        counts: Rows,
        query: RetrievalQuery,
        allowed: ExclusionFilter,
    ) -> tuple[Rows, Floats]:
        """Return up to `counts` (batch,) rows for each of the `active` requests (m,), without excluded ones, as an
        array for the whole batch (batch, n), padded with the number of tracks; and the largest product of each (m,)."""
        if not len(index):
            return np.empty((len(query), 0), np.int64), np.full(len(active), -np.inf, np.float32)
        wanted = counts[active]
        most = query.n_excluded()[active]
        overfetch = np.minimum(most, MAX_OVERFETCH)
        masks = [query.passing.get(request) for request in active.tolist()] if query.passing else []
        if index is self.collab.index:
            masks = [None if mask is None else gather(mask, self.collab.rows) for mask in masks]
        while True:
            positions, products = index.search(queries[active], (wanted + overfetch).tolist(), masks)
            found = positions >= 0
            rows = gather(self.collab.rows, positions).astype(np.int64) if index is self.collab.index else positions
            found &= allowed.allows(active, rows)
            ranks = found.cumsum(axis=1)
            short = (ranks[:, -1] < wanted) & (overfetch < most)
            if short.any():  # and there are more to find
                short &= (positions >= 0).sum(axis=1) == wanted + overfetch
            if not short.any():
                break
            overfetch[short] *= OVERFETCH_GROWTH
        out = np.full((len(query), rows.shape[1]), self._n_rows)
        out[active] = np.where(found & (ranks <= wanted[:, None]), rows, self._n_rows)
        return out, products[:, 0]

    def _most_popular(self, active: Rows, counts: Rows, allowed: ExclusionFilter) -> Rows:
        """Return twice `counts` (batch,) popular rows for each of the `active` requests, in the form of `_nearest`."""
        rows = np.maximum(np.minimum(self.popular, self._n_rows - 1), 0).astype(np.int64)
        rows = np.broadcast_to(rows, (len(active), len(rows)))
        found = allowed.allows(active, rows)
        out = np.full((len(counts), rows.shape[1]), self._n_rows)
        out[active] = np.where(found & (np.cumsum(found, axis=1) <= 2 * counts[active][:, None]), rows, self._n_rows)
        return out

    def _backfilled(
        self, candidates: Candidates, query: RetrievalQuery, lacking: Rows, allowed: ExclusionFilter
    ) -> Candidates:
        """Return the candidates with the `lacking` (batch,) most popular other tracks added; for a request with filters
        the most popular ones of each artist first."""
        if (lacking <= 0).all():
            return candidates
        widest = candidates.rows.shape[1] + int(lacking.max())
        rows = np.full((len(query), widest), self._n_rows)
        for i, row in enumerate(np.where(candidates.valid, candidates.rows, self._n_rows)):
            rows[i, : len(row)] = row
            if lacking[i] > 0:
                every = query.passing[i].nonzero()[0] if i in query.passing else np.arange(self._n_rows)
                free = np.setdiff1d(every, row)
                free = free[allowed.allows(np.array([i]), free[None])[0]]
                ranks = gather(self.artists.ranks, free) if i in query.passing else np.zeros(len(free))
                free = free[np.lexsort((-self.popularity[free], ranks))[: lacking[i]]]
                rows[i, len(row) : len(row) + len(free)] = free
        rows.sort(axis=1)
        return Candidates(rows, rows < self._n_rows, candidates.best)
