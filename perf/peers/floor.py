"""Floor: the minimum work of any server: HTTP, the same JSON, one run of each graph, one search."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from musix_runtime.models.index import Index
from musix_runtime.schemas import ClassifyRequest, RecommendRequest
from perf.peers import arguments

POOL, CANDIDATES = 60, 50  # rows that the ranker scores at once, neighbours that are searched
RECOMMENDATION = {
    "id": "simulated0000000000000",
    "name": "Simulated Song 0000000",
    "artist": "Simulated Artist 0000000",
    "score": 0.912345,
    "reason": "70% similar listeners + 20% similar sound + 10% new release",
    "contributions": dict.fromkeys(("base", "collab", "content", "preference", "freshness", "diversity"), 0.123456),
    "genre": ["electronic"],
    "mood": "happy",
}
RECOMMENDED = {"recommendations": [RECOMMENDATION] * 10, "source": "hybrid", "generatedAt": "2025-01-01T00:00:00.000Z"}
CLASSIFIED = {
    "genres": [{"name": "electronic", "confidence": 0.1234}] * 5,
    "mood": {
        "primary": "happy",
        "probabilities": dict.fromkeys(("happy", "sad", "energetic", "calm", "focus"), 0.2),
    },
    "timestamp": "2025-01-01T00:00:00.000Z",
}


class Kernels:
    """The library calls of an answer, on rows of the bundle."""

    def __init__(self, bundle: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.genre, self.mood, self.ranker = (
            ort.InferenceSession(bundle / part / "model.onnx", options, ["CPUExecutionProvider"])
            for part in ("genre", "mood", "ranker")
        )
        vectors = np.load(bundle / "content" / "vectors.npy", mmap_mode="r")
        self.index = Index.read(vectors, np.memmap(bundle / "content" / "index.faiss", np.uint8, "r"))
        inputs = np.load(bundle / "catalog" / "inputs.npy", mmap_mode="r")[:1].copy()
        artist = np.load(bundle / "genre" / "artist_factors.npy", mmap_mode="r")[:1].copy()
        title = np.zeros((1, np.load(bundle / "genre" / "gram_weights.npy", mmap_mode="r").shape[1]), np.float32)
        self.features = {"features": inputs, "artist": artist, "title": title, "case": np.ones((1, 1), np.float32)}
        self.audio = {"features": np.ascontiguousarray(inputs[:, :12])}
        self.shown = {"components": np.full((1, POOL, 5), 0.5, np.float32), "context": np.zeros((1, 2), np.float32)}
        self.query = np.full(vectors.shape[1], vectors.shape[1] ** -0.5, np.float32)

    def classify(self) -> None:
        """Run each of the two graphs once."""
        self.genre.run(None, self.features)
        self.mood.run(None, self.audio)

    def recommend(self) -> None:
        """Search once and run the ranker once."""
        self.index.nearest(self.query, CANDIDATES)
        self.ranker.run(None, self.shown)


def create_app(bundle: Path) -> Starlette:
    """Return the application: /echo/... answers with JSON alone, /api/ml/... after the library calls."""
    kernels = Kernels(bundle)

    def route(name: str, question: type[Any], answer: dict[str, Any], kernel: Any) -> Route:
        async def endpoint(request: Request) -> Response:
            msgspec.json.decode(await request.body(), type=question)
            if kernel:
                kernel()
            return Response(msgspec.json.encode({"success": True, "data": answer}), media_type="application/json")

        return Route(name, endpoint, methods=["POST"])

    return Starlette(
        routes=[
            route("/api/ml/classify", ClassifyRequest, CLASSIFIED, kernels.classify),
            route("/api/ml/recommend", RecommendRequest, RECOMMENDED, kernels.recommend),
            route("/echo/classify", ClassifyRequest, CLASSIFIED, None),
            route("/echo/recommend", RecommendRequest, RECOMMENDED, None),
        ]
    )


if __name__ == "__main__":
    given = arguments.read()
    uvicorn.run(create_app(given.bundle), host=given.host, port=given.port, access_log=False)
