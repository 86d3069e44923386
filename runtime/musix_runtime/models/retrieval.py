"""Retrieval: which tracks come into question for each request of a batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from musix_runtime.bundle.manifest import Serving
from musix_runtime.models import candidate_features
from musix_runtime.models.arrays import Floats, RaggedRows, Rows, gather
from musix_runtime.models.candidate_features import CandidateFeatures
from musix_runtime.models.collab import Collab
from musix_runtime.models.content import Content
from musix_runtime.models.index import Index

MAX_OVERFETCH = 256  # tracks found beside those asked for, as some are excluded; more only when too few are left
OVERFETCH_GROWTH = 4
SIEVE = (1 << 14) - 1  # last bits of a key, by which most candidates are known not to be excluded


@dataclass(frozen=True, slots=True)
class User:
    """What is known of a user: factors (51,), all catalogue rows heard, and those of the asked time range, which tell
    the taste."""

    factors: Floats | None
    history: Rows
    profile_items: Rows


ANONYMOUS = User(None, np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class ExcludedIds:
    """Thousands of tracks that a request excludes: how many, and a test of which rows (n,) are among them. So few of
    them are ever candidates that the candidates' ids are compared, and theirs not looked up."""

    count: int
    contain: Callable[[Rows], NDArray[np.bool_]]


@dataclass(frozen=True)
class RetrievalQuery:
    """What a batch of requests asks for: how many tracks, `limits` (batch,); near to which factors (batch, 51) and
    content vector (batch, 28), zeros for none; by whose taste; and what must not be proposed: rows, and for some
    requests, by number, many ids.

    The last of the factors is 1, as the index is asked.
    """

    limits: Rows
    factors: Floats
    has_factors: NDArray[np.bool_]
    content: Floats
    has_content: NDArray[np.bool_]
    profile_items: RaggedRows
    excluded: RaggedRows
    excluded_ids: Mapping[int, ExcludedIds] = field(default_factory=dict)

    def n_excluded(self) -> Rows:
        """How many tracks each request excludes, at most. Shape (batch,)."""
        found = self.excluded.sizes.copy()
        for i, ids in self.excluded_ids.items():
            found[i] += ids.count
        return found

    def __len__(self) -> int:
        return len(self.limits)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Catalogue rows (batch, n), ascending; those that are none are not `valid`. `best` (batch,): the product of the
    factors with those of the best track of all."""

    rows: Rows
    valid: NDArray[np.bool_]
    best: Floats


class ExclusionFilter:
    """Tells which rows each request of a batch excludes."""

    def __init__(
        self, excluded: RaggedRows, n_rows: int, excluded_ids: Mapping[int, ExcludedIds] | None = None
    ) -> None:
        self._excluded_ids = excluded_ids or {}
        keys = np.repeat(np.arange(len(excluded.sizes)) * n_rows, excluded.sizes) + excluded.values
        self._keys = np.sort(keys[(excluded.values >= 0) & (excluded.values < n_rows)])
        self._n_rows = n_rows
        self._sieve = np.zeros(SIEVE + 1, bool)
        self._sieve[self._keys & SIEVE] = True

    def allows(self, requests: NDArray[np.int64], rows: Rows) -> NDArray[np.bool_]:
        """Whether each of the rows (m, n) may be proposed to the `requests` (m,). Shape (m, n)."""
        allowed = np.ones(rows.shape, bool)
        if len(self._keys):
            keys = (rows + (requests * self._n_rows)[:, None]).ravel()
            (suspect,) = self._sieve.take(keys & SIEVE).nonzero()
            keys = keys.take(suspect)
            positions = self._keys.searchsorted(keys)
            allowed.ravel()[suspect] = self._keys.take(positions, mode="clip") != keys
        for i, request in enumerate(requests.tolist() if self._excluded_ids else ()):
            if request in self._excluded_ids:
                allowed[i] &= ~self._excluded_ids[request].contain(rows[i])
        return allowed


@dataclass(frozen=True)
class Retriever:
    """The catalogue as recommending sees it. Arrays have one row a track."""

    collab: Collab
    content: Content
    families: NDArray[np.uint32]  # bit i: the track is of family i
    freshness: Floats  # 0..1, 1 = released last
    popularity: Floats  # 0..1, 1 = heard by most
    popular: NDArray[np.int32]  # the most popular rows, best first
    serving: Serving

    def query(self, user: User, content: Floats | None, excluded: Rows, limit: int) -> RetrievalQuery:
        """A batch of one: for a user, near to a content vector (28,)."""
        factors = np.zeros((1, len(self.collab.track_mean)), np.float32)
        if user.factors is not None:
            factors = self.collab.queries(user.factors[None])
        return RetrievalQuery(
            limits=np.array([limit]),
            factors=factors,
            has_factors=np.array([user.factors is not None]),
            content=np.zeros((1, self.content.width), np.float32) if content is None else content[None],
            has_content=np.array([content is not None]),
            profile_items=RaggedRows.of([user.profile_items]),
            excluded=RaggedRows.of([excluded]),
        )

    def retrieve(self, query: RetrievalQuery) -> Candidates:
        """The nearest tracks by factors and by content, of each as many as `serving` says or as are asked for; twice as
        many popular ones where neither is known; none that is excluded.

        At least as many as are asked for, where the catalogue has as many left.
        """
        allowed = ExclusionFilter(query.excluded, self._n_rows, query.excluded_ids)
        counts = np.maximum(query.limits, self.serving.candidates)
        best = self.collab.averages(query.factors)
        sources = []
        if (asking := query.has_factors.nonzero()[0]).size:
            rows, products = self._nearest(self.collab.index, query.factors, asking, counts, query, allowed)
            best[asking] = np.fmax(products, best[asking])
            sources.append(rows)
        if (asking := query.has_content.nonzero()[0]).size:
            rows, _ = self._nearest(self.content.index, query.content, asking, counts, query, allowed)
            sources.append(rows)
        if (asking := (~(query.has_factors | query.has_content)).nonzero()[0]).size:
            sources.append(self._most_popular(asking, counts, allowed))
        sources.append(np.full((len(query), 1), self._n_rows))  # so that there is always a column
        rows = np.concatenate(sources, axis=1)
        rows.sort(axis=1)
        rows = rows[:, : max(int((rows < self._n_rows).sum(axis=1).max()), 1)]
        valid = rows < self._n_rows
        valid[:, 1:] &= rows[:, 1:] != rows[:, :-1]
        return self._backfilled(Candidates(rows, valid, best), query, allowed)

    def features(self, query: RetrievalQuery, candidates: Candidates) -> CandidateFeatures:
        """What the ranker is told of each candidate."""
        return candidate_features.extract(self, query, candidates)

    @cached_property
    def n_families(self) -> int:
        """How many families there are at least, by the tracks."""
        return max(int(self.families.max(initial=0)).bit_length(), 1)

    @cached_property
    def _n_rows(self) -> int:
        return len(self.popularity)

    def _nearest(
        self,
        index: Index,
        queries: Floats,
        asking: Rows,
        counts: Rows,
        query: RetrievalQuery,
        allowed: ExclusionFilter,
    ) -> tuple[Rows, Floats]:
        """Up to `counts` (batch,) rows that the index finds for each of the `asking` requests (m,), none excluded, in
        an array for all (batch, n) that the number of tracks fills; and the greatest product of all (m,)."""
        if not len(index):
            return np.empty((len(query), 0), np.int64), np.full(len(asking), -np.inf, np.float32)
        wanted = counts[asking]
        most = query.n_excluded()[asking]
        overfetch = np.minimum(most, MAX_OVERFETCH)
        while True:
            positions, products = index.search(queries[asking], (wanted + overfetch).tolist())
            found = positions >= 0
            rows = gather(self.collab.rows, positions).astype(np.int64) if index is self.collab.index else positions
            found &= allowed.allows(asking, rows)
            ranks = found.cumsum(axis=1)
            short = (ranks[:, -1] < wanted) & (overfetch < most)
            if not short.any():
                break
            overfetch[short] *= OVERFETCH_GROWTH
        out = np.full((len(query), rows.shape[1]), self._n_rows)
        out[asking] = np.where(found & (ranks <= wanted[:, None]), rows, self._n_rows)
        return out, products[:, 0]

    def _most_popular(self, asking: Rows, counts: Rows, allowed: ExclusionFilter) -> Rows:
        """Twice `counts` (batch,) popular rows for each of the `asking` requests, as `_nearest` gives them."""
        rows = np.maximum(np.minimum(self.popular, self._n_rows - 1), 0).astype(np.int64)
        rows = np.broadcast_to(rows, (len(asking), len(rows)))
        found = allowed.allows(asking, rows)
        out = np.full((len(counts), rows.shape[1]), self._n_rows)
        out[asking] = np.where(found & (np.cumsum(found, axis=1) <= 2 * counts[asking][:, None]), rows, self._n_rows)
        return out

    def _backfilled(self, candidates: Candidates, query: RetrievalQuery, allowed: ExclusionFilter) -> Candidates:
        """With the most popular other tracks, where a small catalogue or many exclusions leave too few."""
        lacking = query.limits - candidates.valid.sum(axis=1)
        if (lacking <= 0).all():
            return candidates
        widest = candidates.rows.shape[1] + int(lacking.max())
        rows = np.full((len(query), widest), self._n_rows)
        for i, row in enumerate(np.where(candidates.valid, candidates.rows, self._n_rows)):
            rows[i, : len(row)] = row
            if lacking[i] > 0:
                free = np.setdiff1d(np.arange(self._n_rows), row)
                free = free[allowed.allows(np.array([i]), free[None])[0]]
                free = free[np.argsort(-self.popularity[free], kind="stable")[: lacking[i]]]
                rows[i, len(row) : len(row) + len(free)] = free
        rows.sort(axis=1)
        return Candidates(rows, rows < self._n_rows, candidates.best)
