"""The pool: which tracks come into question for a listener, and what speaks for each of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.arrays import ABSENT, Floats, Rows
from musix_runtime.collab import Collab
from musix_runtime.content import Content
from musix_runtime.manifest import Serving
from musix_runtime.ranker import COMPONENTS, MICRO

_BITS = np.arange(32, dtype=np.uint32)


@dataclass(frozen=True)
class Listener:
    """What is known of who asks: collab's match for every track with factors, the catalogue rows heard ever, and those
    of the asked time range, which tell the taste."""

    matches: Floats | None
    heard: Rows
    taste: Rows


NOBODY = Listener(None, np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True)
class Pool:
    """The catalogue as recommending sees it. Arrays have one row a track."""

    collab: Collab
    content: Content
    families: NDArray[np.uint32]  # bit i: the track is of family i
    freshness: Floats  # 0..1, 1 = released last
    popularity: Floats  # 0..1, 1 = heard by most
    popular: NDArray[np.int32]  # the most popular rows, best first
    serving: Serving

    def candidates(self, listener: Listener, query: Floats | None, excluded: Rows, limit: int) -> Rows:
        """Rows that collab and content propose, the popular ones when neither can; ascending, none excluded.

        At least `limit` of them, where the catalogue has as many left.
        """
        count = max(self.serving.candidates, limit)
        excluded = np.unique(excluded)
        proposals = []
        if listener.matches is not None:
            proposals.append(self._best_matches(listener.matches, count + len(excluded)))
        if query is not None:
            proposals.append(self.content.nearest(query, count + len(excluded))[0])
        if not proposals:
            proposals, count = [self.popular.astype(np.int64)], 2 * count
        kept = [rows[~np.isin(rows, excluded)][:count] for rows in proposals]
        found = np.unique(np.concatenate(kept))
        if len(found) < limit:
            found = np.union1d(found, self._filling(np.concatenate([found, excluded]), limit - len(found)))
        return found

    def components(self, listener: Listener, query: Floats | None, rows: Rows, vectors: Floats) -> Floats:
        """The five components of each row, all in 0..1; diversity is 1, as nothing is chosen yet. Shape (n, 5).

        collab: match by factors, 0 for tracks nobody heard; the popularity when nothing is known of the listener.
        content: cosine with the query, not below 0. preference: how much the listener hears the track's family,
        as a share of the family heard most.
        """
        components = np.zeros((len(rows), len(COMPONENTS)), np.float32)
        if listener.matches is not None:
            places = self.collab.places(rows)
            components[:, 0] = np.where(places != ABSENT, listener.matches[places], 0)
        elif query is None:
            components[:, 0] = self.popularity[rows]
        if query is not None:
            components[:, 1] = np.clip(vectors @ query, 0, 1)
        components[:, 2] = self._preference(listener.taste, rows)
        components[:, 3] = self.freshness[rows]
        components[:, 4] = 1
        return components

    def shortlist(self, components: Floats, limit: int) -> Rows:
        """Positions of the candidates that the ranker shall see: the best by the blend. Ascending."""
        size = max(self.serving.pool, limit)
        weights = np.array([self.serving.blend[name] for name in COMPONENTS], np.float32)
        blend = np.rint(components @ weights * MICRO)
        return np.sort(np.argsort(-blend, kind="stable")[:size])

    def _best_matches(self, matches: Floats, count: int) -> Rows:
        """The rows of greatest match, best first; ties, also at the end, go to the smaller row on every host."""
        micro = np.rint(matches * MICRO).astype(np.int32)
        count = min(count, len(micro))
        last = np.partition(micro, len(micro) - count)[len(micro) - count]
        better, equal = np.flatnonzero(micro > last), np.flatnonzero(micro == last)
        best = np.concatenate([better, equal[: count - len(better)]])
        return self.collab.rows[best[np.argsort(-micro[best], kind="stable")]].astype(np.int64)

    def _filling(self, taken: Rows, count: int) -> Rows:
        """More rows, the most popular first, when a small catalogue or many exclusions leave too few."""
        free = np.setdiff1d(np.arange(len(self.popularity)), taken)
        return free[np.argsort(-self.popularity[free], kind="stable")[:count]]

    def _preference(self, taste: Rows, rows: Rows) -> Floats:
        counts = self._families(taste).sum(axis=0)
        shares = counts / max(counts.max(initial=0), 1)
        return np.asarray((self._families(rows) * shares).max(axis=1, initial=0), np.float32)

    def _families(self, rows: Rows) -> NDArray[Any]:
        return (self.families[rows][:, None] >> _BITS) & 1
