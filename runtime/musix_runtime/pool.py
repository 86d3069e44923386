"""The pool: which tracks come into question for a listener, and what speaks for each of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from musix_runtime.arrays import Floats, Rows
from musix_runtime.collab import Collab, Matches
from musix_runtime.content import Content
from musix_runtime.manifest import Serving
from musix_runtime.ranker import COMPONENTS, MICRO

_FAMILIES = np.uint32(1) << np.arange(32, dtype=np.uint32)[:, None]  # the bit of each
FETCHED = 200  # excluded tracks for which a first search makes room; few listeners exclude more among their best


@dataclass(frozen=True)
class Listener:
    """What is known of who asks: how tracks match by factors, the catalogue rows heard ever, and those of the asked
    time range, which tell the taste."""

    matches: Matches | None
    heard: Rows
    taste: Rows


NOBODY = Listener(None, np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True)
class Named:
    """Tracks that must not be proposed, as they were named: at most so many, told by looking at those in question."""

    most: int
    among: Callable[[Rows], NDArray[np.bool_]]


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

    def candidates(
        self, listener: Listener, query: Floats | None, excluded: Rows, limit: int, named: Named | None = None
    ) -> Rows:
        """Rows that collab and content propose, the popular ones when neither can; ascending, none excluded or named.

        At least `limit` of them, where the catalogue has as many left.
        """
        count = max(self.serving.candidates, limit)
        excluded = np.sort(excluded)
        ways: list[Callable[[int], Rows]] = []
        if listener.matches is not None:
            ways.append(listener.matches.nearest)
        if query is not None:
            ways.append(lambda asked: self.content.nearest(query, asked)[0])
        if not ways:
            ways, count = [lambda asked: self.popular[:asked].astype(np.int64)], 2 * count
        found = _distinct([_free(way, excluded, named, count) for way in ways])
        if len(found) < limit:
            found = _distinct([found, self._filling(np.concatenate([found, excluded]), named, limit - len(found))])
        return found

    def components(self, listener: Listener, query: Floats | None, rows: Rows, vectors: Floats) -> Floats:
        """The five components of each row, all in 0..1; diversity is 1, as nothing is chosen yet. Shape (n, 5).

        collab: match by factors, 0 for tracks nobody heard; the popularity when nothing is known of the listener.
        content: cosine with the query, not below 0. preference: how much the listener hears the track's family,
        as a share of the family heard most.
        """
        components = np.zeros((len(rows), len(COMPONENTS)), np.float32)
        if listener.matches is not None:
            components[:, 0] = listener.matches.of(rows)
        elif query is None:
            components[:, 0] = self.popularity[rows]
        if query is not None:
            components[:, 1] = np.minimum(np.maximum(vectors @ query, 0), 1)
        components[:, 2] = self._preference(listener.taste, rows)
        components[:, 3] = self.freshness[rows]
        components[:, 4] = 1
        return components

    def shortlist(self, components: Floats, limit: int) -> Rows:
        """Positions of the candidates that the ranker shall see: the best by the blend. Ascending."""
        size = max(self.serving.pool, limit)
        if len(components) <= size:
            return np.arange(len(components))
        blend = (components * self._blend).sum(axis=1)
        return np.sort(np.argsort(-np.rint(blend), kind="stable")[:size])

    @cached_property
    def _blend(self) -> Floats:
        """The weights. Products are summed by numpy: a matrix product of five columns adds in another order on every
        processor, and some kernels of OpenBLAS look at memory beyond the fifth."""
        return np.array([self.serving.blend[name] * MICRO for name in COMPONENTS], np.float32)

    def _filling(self, taken: Rows, named: Named | None, count: int) -> Rows:
        """More rows, the most popular first, when a small catalogue or many exclusions leave too few."""
        free = np.setdiff1d(np.arange(len(self.popularity)), taken)
        if named:
            free = free[~named.among(free)]
        return free[np.argsort(-self.popularity[free], kind="stable")[:count]]

    def _preference(self, taste: Rows, rows: Rows) -> Floats:
        has = (self.families[np.concatenate([taste, rows])] & _FAMILIES) != 0
        counts = has[:, : len(taste)].sum(axis=1, dtype=np.float32, keepdims=True)
        shares = counts / max(counts.max(), np.float32(1))
        return (has[:, len(taste) :] * shares).max(axis=0)


def _free(way: Callable[[int], Rows], excluded: Rows, named: Named | None, count: int) -> Rows:
    """The first `count` rows of `way` that are not excluded (sorted) or named; fewer when it has no more."""
    out = len(excluded) + (named.most if named else 0)
    most = count + out
    asked = count + min(out, FETCHED)
    while True:
        rows = way(asked)
        free = rows[_allowed(rows, excluded)]
        if named:
            free = free[~named.among(free)]
        free = free[:count]
        if len(free) == count or asked == most or len(rows) < asked:
            return free
        asked = min(4 * asked, most)


def _distinct(rows: list[Rows]) -> Rows:
    """All of them once, ascending; like numpy's union, in a third of the time for so few."""
    every = np.concatenate(rows)
    every.sort()
    first = np.ones(len(every), bool)
    np.not_equal(every[1:], every[:-1], out=first[1:])
    return every[first]


def _allowed(rows: Rows, excluded: Rows) -> NDArray[np.bool_]:
    """Which rows are not among the excluded ones, ascending."""
    if not len(excluded):
        return np.ones(len(rows), bool)
    return excluded.take(np.searchsorted(excluded, rows), mode="clip") != rows
