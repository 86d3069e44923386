"""BentoML: a service with the ONNX graphs of a bundle, started by `bentoml serve`."""

from typing import Any

import bentoml
from pydantic import BaseModel, DirectoryPath

from perf.peers import schema
from perf.peers.graphs import GraphModels
from perf.peers.recommender import Recommender


class Arguments(BaseModel):
    """Arguments of `bentoml serve` (--arg)."""

    bundle: DirectoryPath
    native: DirectoryPath


given = bentoml.use_arguments(Arguments)


@bentoml.service(workers=1, traffic={"timeout": 60})
class Music:
    """The service for both kinds of requests."""

    def __init__(self) -> None:
        self.recommender = Recommender(given.native, GraphModels(given.bundle))

    @bentoml.api(route="/api/ml/classify")
    def classify(self, question: schema.Classify, /) -> dict[str, Any]:
        return {"success": True, "data": self.recommender.classify([question])[0]}

    @bentoml.api(route="/api/ml/recommend")
    def recommend(self, question: schema.Recommend, /) -> dict[str, Any]:
        return {"success": True, "data": self.recommender.recommend(question)}
