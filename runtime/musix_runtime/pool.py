"""The pool: which tracks come into question for a listener, and what speaks for each of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime import kernels
from musix_runtime.arrays import Floats, Rows
from musix_runtime.collab import Collab, Matches
from musix_runtime.content import Content
from musix_runtime.manifest import Serving
from musix_runtime.ranker import COMPONENTS, MICRO


@dataclass(frozen=True)
class Listener:
    """What is known of who asks: how tracks match by factors, the catalogue rows heard ever, and those of the asked
    time range, which tell the taste."""

    matches: Matches | None
    heard: Rows
    taste: Rows


NOBODY = Listener(None, np.empty(0, np.int64), np.empty(0, np.int64))


Named = Callable[[Rows], NDArray[np.bool_]]  # which of some rows are among tracks that were excluded by name


@dataclass(frozen=True, slots=True)
class Question:
    """A question: for whom, near to what (28,), how many; and what must not be proposed, as rows or by name."""

    listener: Listener
    query: Floats | None
    limit: int
    excluded: Rows
    named: Named | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Rows (n,) that the ranker shall see, with vectors (n, 28) and components (n, 5); and the seconds that it took to
    find them, features apart."""

    rows: Rows
    vectors: Floats
    components: Floats
    seconds: float


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
        found = np.empty(2 * max(self.serving.candidates, limit), np.int64)
        matches = listener.matches
        while True:
            size, best = self._kernel.candidates(matches.query if matches else None, query, excluded, found)
            rows = found[:size]
            unwanted = rows[named(rows)] if named else rows[:0]
            if not len(unwanted):
                break
            excluded = np.concatenate([excluded, unwanted])
        if matches and not math.isnan(best):
            matches.best = best
        if size < limit:
            rows = np.union1d(rows, self._filling(np.concatenate([rows, excluded]), named, limit - size))
        return rows

    def features(
        self, listener: Listener, query: Floats | None, rows: Rows, limit: int | None = None
    ) -> tuple[Rows, Floats, Floats]:
        """The rows with their content vectors (n, 28) and components (n, 5); with a `limit`, of those that the ranker
        shall see for a list of so many: the best by the blend, in the given order.

        The five components, all in 0..1. collab: match by factors, 0 for tracks nobody heard; the popularity when
        nothing is known of the listener. content: cosine with the query, not below 0. preference:
        1 - (1 - a)(1 - b / 5), where a is how much the tracks that tell the taste speak for this one, by who hears
        them, and b how much the listener hears its family, as a share of the family heard most: who has heard much
        alike tells more than a family, which speaks for tracks that nobody has heard yet. freshness. diversity: 1, as
        nothing is chosen yet.
        """
        rows = rows.copy()
        vectors = np.empty((len(rows), self.content.index.matrix.shape[1]), np.float32)
        components = np.empty((len(rows), len(COMPONENTS)), np.float32)
        factors, average, best = None, 0.0, 0.0
        if matches := listener.matches:
            factors, average, best = matches.query, matches.average, matches.best
        size = len(rows) if limit is None else max(self.serving.pool, limit)
        kept = self._kernel.features(rows, factors, query, listener.taste, vectors, components, average, best, size)
        return rows[:kept], vectors[:kept], components[:kept]

    def search(self, questions: Sequence[Question]) -> list[Found]:
        """The features of each question's candidates, for the ranker. It waits for memory most of the time, and does so
        without Python's lock."""
        plain = [each for each in questions if each.named is None]
        given = [self._given(each) for each in plain]
        told = iter(map(self._found, plain, given, self._kernel.search(given)))
        return [next(told) if each.named is None else self._step_by_step(each) for each in questions]

    def _given(self, question: Question) -> Any:
        """What the kernel takes."""
        matches, room = question.listener.matches, 2 * max(self.serving.candidates, question.limit)
        factors, average = (matches.query, matches.average) if matches else (None, 0.0)
        who = factors, question.query, question.excluded, question.listener.taste
        vectors = np.empty((room, self.content.index.matrix.shape[1]), np.float32)
        out = np.empty(room, np.int64), vectors, np.empty((room, len(COMPONENTS)), np.float32)
        return *who, *out, average, max(self.serving.pool, question.limit)

    def _found(self, question: Question, given: Any, told: tuple[int, float]) -> Found:
        *_, rows, vectors, components, _, size = given
        count, seconds = told
        if count < question.limit:
            return self._step_by_step(question)
        kept = min(count, size)
        return Found(rows[:kept], vectors[:kept], components[:kept], seconds)

    def _step_by_step(self, question: Question) -> Found:
        start = perf_counter()
        listener, query, limit = question.listener, question.query, question.limit
        rows = self.candidates(listener, query, question.excluded, limit, question.named)
        seconds = perf_counter() - start
        return Found(*self.features(listener, query, rows, limit), seconds)

    @cached_property
    def _kernel(self) -> kernels.Pool:
        weights = np.array([self.serving.blend[name] * MICRO for name in COMPONENTS], np.float32)
        collab = self.collab
        of_heard = collab.rows, collab.all_places, collab.tastes
        of_tracks = self.families, self.freshness, self.popularity
        return kernels.Pool(
            collab.index.kernel, self.content.index.kernel, *of_heard, *of_tracks, self.popular, weights
        )

    def _filling(self, taken: Rows, named: Named | None, count: int) -> Rows:
        """More rows, the most popular first, when a small catalogue or many exclusions leave too few."""
        free = np.setdiff1d(np.arange(len(self.popularity)), taken)
        if named:
            free = free[~named(free)]
        return free[np.argsort(-self.popularity[free], kind="stable")[:count]]
