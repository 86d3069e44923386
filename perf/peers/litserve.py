"""LitServe: the ONNX graphs of a bundle in one LitAPI for each kind of request, with a worker process each."""

from pathlib import Path
from typing import Any

from litserve import LitAPI, LitServer

from perf.peers import arguments, schema
from perf.peers.graphs import GraphModels
from perf.peers.recommender import Recommender


class _Api(LitAPI):
    def __init__(self, bundle: Path, native: Path, api_path: str) -> None:
        super().__init__(api_path=api_path)
        self.bundle, self.native = bundle, native

    def setup(self, device: str) -> None:
        self.recommender = Recommender(self.native, GraphModels(self.bundle))

    def encode_response(self, output: Any, **kwargs: Any) -> dict[str, Any]:
        return {"success": True, "data": output}


class Classify(_Api):
    """API for genre and mood of a track."""

    def decode_request(self, request: schema.Classify, **kwargs: Any) -> schema.Classify:
        return request

    def predict(self, x: schema.Classify, **kwargs: Any) -> dict[str, Any]:
        return self.recommender.classify([x])[0]


class Recommend(_Api):
    """API for recommendations."""

    def decode_request(self, request: schema.Recommend, **kwargs: Any) -> schema.Recommend:
        return request

    def predict(self, x: schema.Recommend, **kwargs: Any) -> dict[str, Any]:
        return self.recommender.recommend(x)


if __name__ == "__main__":
    given = arguments.read()
    apis: list[LitAPI] = [
        Classify(given.bundle, given.native, "/api/ml/classify"),
        Recommend(given.bundle, given.native, "/api/ml/recommend"),
    ]
    server = LitServer(apis, accelerator="cpu", workers_per_device=1)
    server.run(host=given.host, port=given.port, num_api_servers=1, log_level="warning", generate_client_file=False)
