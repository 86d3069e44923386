"""Truth: the exact computation's answers to the stream, and how far a server's answers are from them."""

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
from perf.stream import Stream

TOP = 10


@dataclass(frozen=True)
class Truth:
    """Exact answers to the first questions of a stream."""

    recommend: list[RecommendResponse]
    classify: list[ClassifyResponse]

    def recall(self, answers: Sequence[bytes]) -> float:
        """Mean share of the exact list's first ten tracks that stand among the answer's first ten."""
        shares = []
        for exact, body in zip(self.recommend, answers, strict=False):
            wanted = {each.id for each in exact.recommendations[:TOP]}
            found = {each.id for each in _data(body, RecommendResponse).recommendations[:TOP]}
            shares.append(len(wanted & found) / len(wanted))
        return float(np.mean(shares))

    def score_error(self, answers: Sequence[bytes]) -> float:
        """Largest difference of score between tracks that stand in both lists."""
        worst = 0.0
        for exact, body in zip(self.recommend, answers, strict=False):
            scores = {each.id: each.score for each in exact.recommendations}
            for each in _data(body, RecommendResponse).recommendations:
                worst = max(worst, abs(each.score - scores.get(each.id, each.score)))
        return worst

    def classify_error(self, answers: Sequence[bytes]) -> float:
        """Largest difference of a confidence or probability."""
        worst = 0.0
        for exact, body in zip(self.classify, answers, strict=False):
            found = _data(body, ClassifyResponse)
            worst = max(worst, confidence_error(exact, found), probability_error(exact, found))
        return worst


def exact(engine: Engine) -> Engine:
    """The same engine, searching every vector of both indexes."""
    retriever = engine.retriever
    collab = replace(retriever.collab, index=Index(retriever.collab.index.matrix))
    content = replace(retriever.content, index=Index(retriever.content.index.matrix))
    return engine.with_models(collab=collab, content=content)


def answers(bundle: Path, stream: Stream, count: int) -> Truth:
    """What the exact engine answers to the first `count` questions of each kind."""
    engine = exact(Engine.open(bundle))
    recommend, classify = stream.typed()
    return Truth(
        [engine.recommend(each) for each in recommend[:count]], [engine.classify(each) for each in classify[:count]]
    )


class _Answer(msgspec.Struct):
    success: bool
    data: msgspec.Raw


def _data(body: bytes, type_: type[Any]) -> Any:
    return msgspec.json.decode(msgspec.json.decode(body, type=_Answer).data, type=type_)
