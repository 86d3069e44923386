"""Ground truth: exact answers to the workload, and the differences of a server's answers from them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from musix_runtime import Engine
from musix_runtime.models.genre import confidence_error
from musix_runtime.models.index import Index
from musix_runtime.models.mood import probability_error
from musix_runtime.schemas import ClassifyResponse, RecommendResponse
from perf.workload import Workload

TOP = 10


@dataclass(frozen=True)
class GroundTruth:
    """Exact answers to the first requests of a workload."""

    recommend: list[RecommendResponse]
    classify: list[ClassifyResponse]

    def recall(self, answers: Sequence[bytes]) -> float:
        """Return recall at 10: the mean share of the exact first ten tracks among the first ten of the answer."""
        shares = []
        for exact, body in zip(self.recommend, answers, strict=False):
            wanted = {item.id for item in exact.recommendations[:TOP]}
            result = {item.id for item in _data(body, _List).recommendations[:TOP]}
            shares.append(len(wanted & result) / len(wanted))
        return float(np.mean(shares))

    def score_error(self, answers: Sequence[bytes]) -> float:
        """Return the largest difference of scores of tracks in both lists."""
        worst = 0.0
        for exact, body in zip(self.recommend, answers, strict=False):
            scores = {item.id: item.score for item in exact.recommendations}
            for item in _data(body, _List).recommendations:
                worst = max(worst, abs(item.score - scores.get(item.id, item.score)))
        return worst

    def classify_error(self, answers: Sequence[bytes]) -> float:
        """Return the largest difference of a confidence or probability."""
        worst = 0.0
        for exact, body in zip(self.classify, answers, strict=False):
            result = _data(body, ClassifyResponse)
            worst = max(worst, confidence_error(exact, result), probability_error(exact, result))
        return worst


def exact(engine: Engine) -> Engine:
    """Return the same engine with exact searches of both indexes."""
    retriever = engine.retriever
    collab = replace(retriever.collab, index=Index(retriever.collab.index.matrix))
    content = replace(retriever.content, index=Index(retriever.content.index.matrix))
    return engine.with_models(collab=collab, content=content)


def answers(bundle: Path, workload: Workload, count: int) -> GroundTruth:
    """Return the exact answers to the first `count` requests of each kind."""
    engine = exact(Engine.open(bundle))
    recommend, classify = workload.typed()
    return GroundTruth(
        [engine.recommend(item) for item in recommend[:count]], [engine.classify(item) for item in classify[:count]]
    )


class _Answer(msgspec.Struct):
    success: bool
    data: msgspec.Raw


class _Track(msgspec.Struct):
    id: str
    score: float


class _List(msgspec.Struct):
    """What all peers answer; only musix names the heard tracks that speak for a proposal."""

    recommendations: list[_Track]


def _data(body: bytes, type_: type[Any]) -> Any:
    return msgspec.json.decode(msgspec.json.decode(body, type=_Answer).data, type=type_)
