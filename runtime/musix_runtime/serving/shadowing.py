"""Shadowing: a candidate answers a share of the recommendations a second time, after the answer, and is never shown."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from musix_runtime.engine import Engine
from musix_runtime.schemas import RecommendRequest, RecommendResponse
from musix_runtime.serving.idle_worker import IdleWorker
from musix_runtime.serving.traffic import ShadowTraffic

FIRST = 10  # tracks of both lists that are compared


@dataclass(frozen=True)
class Comparison:
    """The candidate's list beside the one that was shown, and the seconds that both took."""

    overlap: float  # share of the first ten tracks that are among the candidate's first ten; 1 if both have none
    score_drift: float | None  # mean difference of the scores of the tracks in both lists, None if there are none
    shown_s: float
    candidate_s: float


class Shadowing:
    """Compares the answers of a candidate with those that were shown. `observe` takes None for a failed answer."""

    def __init__(self, worker: IdleWorker, observe: Callable[[Comparison | None], None]) -> None:
        self._worker = worker
        self._observe = observe

    def offer(
        self, traffic: ShadowTraffic, request: RecommendRequest, answer: RecommendResponse, seconds: float
    ) -> None:
        """Take an answer that was given in `seconds`: by chance, the share of the shadow of them. Never waits."""
        if random.random() < traffic.shadow.share:
            self._worker.add(lambda: self._observe(_repeat(traffic.engine, request, answer, seconds)))


def _repeat(
    candidate: Engine, request: RecommendRequest, answer: RecommendResponse, seconds: float
) -> Comparison | None:
    start = perf_counter()
    try:
        other = candidate.recommend(request)
    except Exception:  # of any kind: it is counted
        return None
    return compare(answer, other, seconds, perf_counter() - start)


def compare(shown: RecommendResponse, other: RecommendResponse, shown_s: float, candidate_s: float) -> Comparison:
    """Compare the first ten tracks of two lists."""
    scores, others = (
        {track.id: track.score for track in response.recommendations[:FIRST]} for response in (shown, other)
    )
    common = scores.keys() & others.keys()
    drift = sum(abs(scores[track] - others[track]) for track in common) / len(common) if common else None
    overlap = len(common) / len(scores) if scores else float(not others)
    return Comparison(overlap, drift, shown_s, candidate_s)
