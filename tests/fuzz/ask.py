"""Requests to all routes of the server with ids of the bundle, and checks of the responses."""

import asyncio
import logging
import math
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from musix_runtime import Engine, create_app
from musix_runtime.models.mood import MOODS
from musix_runtime.schemas import ClassifyResponse, RecommendResponse, SimilarResponse
from musix_runtime.serving.model_manager import ModelManager
from tests.features import FEATURES

SOURCES = {"hybrid", "collab", "history", "content", "popular"}
TYPES: dict[str, Any] = {
    "/api/ml/classify": ClassifyResponse,
    "/api/ml/classify/batch": list[ClassifyResponse],
    "/api/ml/recommend": RecommendResponse,
    "/api/ml/similar": SimilarResponse,
}
GETS = ("/health", "/ready", "/metrics")
STATUSES = {200, 404, 422}
FILTERS: tuple[dict[str, Any], ...] = ({"moods": ["calm", "sad"], "explicit": False}, {"releasedAfter": "2020-01-01"})


class WrongAnswerError(Exception):
    """A response is not well-formed."""


class Asker:
    """An application that sends itself requests, with one engine after the other."""

    def __init__(self, good: Engine) -> None:
        self.good = good
        self.live = ModelManager(good)
        self.app = create_app(self.live)
        self.errors = _Errors()
        logging.getLogger("musix_runtime").addHandler(self.errors)

    def ask(self, engine: Engine) -> None:
        """Send all requests to an engine. Raises WrongAnswerError."""
        self.live.latest = engine
        try:
            asyncio.run(self._ask(engine))
        finally:
            self.live.latest = self.good

    async def _ask(self, engine: Engine) -> None:
        for path in GETS:
            status, body = await self._call("GET", path, b"")
            if status != 200:
                raise self._failed(path, None, status, body)
        for path, question in questions(engine):
            status, body = await self._call("POST", path, msgspec.json.encode(question))
            if status not in STATUSES:
                raise self._failed(path, question, status, body)
            if status == 200:
                try:
                    check(engine, path, question, body)
                except (WrongAnswerError, msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise WrongAnswerError(f"{path}: {error}: asked {str(question)[:100]}") from None

    def _failed(self, path: str, question: object, status: int, body: bytes) -> WrongAnswerError:
        cause = self.errors.last
        said = f"{type(cause).__name__}: {cause}" if cause else body[:100].decode("utf-8", "replace")
        failure = WrongAnswerError(f"{path}: status {status}: {said}: asked {str(question)[:100]}")
        failure.__cause__ = cause
        return failure

    async def _call(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body of one request to the application, without a socket."""
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", b"test"), (b"content-type", b"application/json")]
        scope = {
            "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": path, "root_path": "",
            "raw_path": path.encode(), "query_string": b"", "headers": headers, "client": ("127.0.0.1", 1),
            "server": ("test", 80), "asgi": {"version": "3.0"},
        }  # fmt: skip
        await self.app(scope, receive, send)
        await asyncio.sleep(0)  # lets the batch end: a request beside it would wait for a second client
        return sent[0]["status"], b"".join(item.get("body", b"") for item in sent[1:])


class _Errors(logging.Handler):
    """A log handler that keeps the exception of the last response with status 500."""

    last: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.exc_info[1] if record.exc_info else None


def questions(engine: Engine) -> Iterator[tuple[str, Any]]:
    """Yield path and body of each request, with ids from all parts of the catalogue and of the listeners."""
    tracks, users = _sample(engine.catalog.ids.sorted, 40), _sample(engine.retriever.collab.listeners.sorted, 3)
    artist = _sample(engine.genre.artists.sorted, 1)
    yield "/api/ml/classify", {"trackId": tracks[0]}
    features = {"audioFeatures": FEATURES}
    asked = [
        features,
        {**features, "artists": artist, "name": "A title"},
        {**features, "artists": ["Nobody"], "name": ""},
    ]
    yield from (("/api/ml/classify", item) for item in asked)
    yield "/api/ml/classify", {"trackId": "nothing"}
    yield "/api/ml/classify/batch", [*({"trackId": item} for item in tracks), *asked]
    yield "/api/ml/similar", {"trackId": tracks[-1], "limit": 100}
    yield "/api/ml/similar", {"trackId": tracks[0], "limit": 10, "filters": FILTERS[0]}
    context = {"timeRange": "short_term", "context": {"hour": 8}}
    for question in (
        {"userId": users[0], "limit": 10, "currentTrackId": tracks[0], **context},
        {"userId": users[-1], "limit": 100, "excludeIds": tracks[:5], "timeRange": "long_term"},
        {"userId": users[0], "limit": 10, "filters": FILTERS[0]},
        {"userId": "nobody", "limit": 1, "filters": FILTERS[1]},
        {"userId": "nobody", "limit": 10, "filters": {"genres": engine.catalog.genres[:2]}},
        {"userId": "nobody", "limit": 10, "currentTrackId": tracks[-1], "excludeIds": [*tracks, *map(str, range(200))]},
        {"userId": "nobody", "limit": 10, "history": tracks[:20]},
    ):
        yield "/api/ml/recommend", question


def _sample(keys: np.ndarray, count: int) -> list[str]:
    """Return up to `count` evenly spaced keys that are valid in a request, at least one."""
    places = np.unique(np.linspace(0, len(keys) - 1, min(count, len(keys))).astype(int)) if len(keys) else []
    texts = [bytes(keys[item]).decode("utf-8", "replace")[:1000] for item in places]
    return [item for item in texts if item] or ["nothing"]


def check(engine: Engine, path: str, question: Any, body: bytes) -> None:
    """Raise WrongAnswerError or DecodeError unless the response has its type, numbers in range and known ids."""
    data = msgspec.json.decode(body, type=dict[str, msgspec.Raw])["data"]
    answer = msgspec.json.decode(data, type=TYPES[path])
    if path == "/api/ml/recommend":
        _check_list(engine, question, answer.recommendations)
        _expect(answer.source in SOURCES, f"source {answer.source!r}")
        for item in answer.recommendations:
            _expect(0 <= item.score <= 1, f"score {item.score}")
            _expect(all(map(math.isfinite, item.contributions.values())), "contributions that are not finite")
            _expect(abs(sum(item.contributions.values()) - item.score) < 1e-3, "contributions that are not the score")
            _expect(set(item.genre) <= set(engine.bundle.manifest.families), f"genres {item.genre}")
            _expect(item.mood in MOODS and bool(item.reason), f"mood {item.mood!r}, reason {item.reason!r}")
            filters = question.get("filters", {})
            _expect(item.mood in filters.get("moods", MOODS), f"mood {item.mood!r} that is filtered out")
            _expect(not filters.get("genres") or bool({*item.genre} & {*filters["genres"]}), f"genres {item.genre}")
    elif path == "/api/ml/similar":
        _check_list(engine, question, answer.tracks)
        for track in answer.tracks:
            _expect(-1 <= track.similarity <= 1, f"similarity {track.similarity}")
    else:
        many = answer if isinstance(answer, list) else [answer]
        _expect(not isinstance(answer, list) or len(many) == len(question), f"{len(many)} answers")
        for item in many:
            _check_classification(engine, item)


def _check_classification(engine: Engine, answer: ClassifyResponse) -> None:
    families = engine.bundle.manifest.families
    _expect(len(answer.genres) == min(5, len(families)), f"{len(answer.genres)} genres")
    _expect(
        all(item.name in families and 0 <= item.confidence <= 1 for item in answer.genres), f"genres {answer.genres}"
    )
    chances = answer.mood.probabilities
    _expect(set(chances) == set(MOODS) and answer.mood.primary in MOODS, f"mood {answer.mood}")
    _expect(all(0 <= item <= 1 for item in chances.values()), f"probabilities {chances}")


def _check_list(engine: Engine, question: Any, tracks: list[Any]) -> None:
    ids = [item.id for item in tracks]
    _expect(
        len(ids) <= question["limit"] and len(set(ids)) == len(ids), f"{len(ids)} tracks, {len(set(ids))} different"
    )
    _expect(not set(ids) & set(question.get("excludeIds", [])), "excluded tracks")
    lost = [track_id for track_id in ids if engine.catalog.row(track_id) is None]
    _expect(not lost, f"ids that are not in the catalogue: {lost[:3]}")


def _expect(condition: bool, actual: str) -> None:
    if not condition:
        raise WrongAnswerError(f"expected a well-formed response, found {actual}")
