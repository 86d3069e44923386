"""Workload: the requests to all peers, drawn from a seed among the listeners and tracks of a bundle."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from musix_runtime.models.arrays import Floats, Strings
from musix_runtime.models.features import AUDIO_NAMES
from musix_runtime.schemas import ClassifyRequest, RecommendRequest
from perf import client

RECOMMEND, CLASSIFY, BATCH = "/api/ml/recommend", "/api/ml/classify", "/api/ml/classify/batch"
UNKNOWN = 0.2  # share of unknown users; half of them have a history, the others a current track
PLAYING = 0.5  # share of known listeners with a current track
EXCLUDING = 0.2  # share of requests that exclude tracks
LIST_LENGTH = 5  # tracks of a history or of an exclusion
BATCH_SIZE = 1000


@dataclass(frozen=True)
class Workload:
    """Bodies of the requests, in the order in which they are sent in a loop."""

    recommend: list[dict[str, Any]]
    classify: list[dict[str, Any]]

    def requests(self, question: str, prefix: str = "/api/ml") -> list[bytes]:
        """Return the HTTP requests of `recommend` or `classify`."""
        return [client.post(f"{prefix}/{question}", body) for body in getattr(self, question)]

    def batch(self) -> bytes:
        """Return one request for the classification of 1,000 tracks."""
        return client.post(BATCH, [self.classify[i % len(self.classify)] for i in range(BATCH_SIZE)])

    def typed(self) -> tuple[list[RecommendRequest], list[ClassifyRequest]]:
        """Return the same requests for an engine in this process."""
        recommend = [msgspec.convert(body, RecommendRequest) for body in self.recommend]
        return recommend, [msgspec.convert(body, ClassifyRequest) for body in self.classify]


def draw(bundle: Path, count: int, seed: int = 1) -> Workload:
    """Return `count` requests of each kind for the bundle folder."""
    rng = np.random.default_rng(seed)
    tracks, listeners = _Tracks(bundle), _array(bundle, "collab/listeners")
    return Workload(
        [_recommend(tracks, listeners, rng) for _ in range(count)],
        [_classify(tracks, i % 2 == 0, rng) for i in range(count)],
    )


def tracks(bundle: Path, count: int, seed: int = 2) -> list[str]:
    """Return the ids of `count` tracks of the bundle folder."""
    return _Tracks(bundle).some(count, np.random.default_rng(seed))


class _Tracks:
    def __init__(self, bundle: Path) -> None:
        self.ids = _array(bundle, "catalog/track_ids")
        self.histories = _array(bundle, "collab/history_offsets")
        self.history_rows = _array(bundle, "collab/history_rows")
        self.inputs: Floats = _array(bundle, "catalog/inputs")
        self.artists = Strings(_array(bundle, "catalog/artist_offsets"), _array(bundle, "catalog/artist_data"))

    def heard(self, rng: np.random.Generator) -> list[str]:
        """Return the newest tracks of a listener's history, as the history of an unknown user."""
        listener = int(rng.integers(len(self.histories) - 1))
        start, stop = self.histories[listener : listener + 2].tolist()
        return [bytes(self.ids[row]).decode() for row in self.history_rows[start : min(stop, start + LIST_LENGTH)]]

    def some(self, count: int, rng: np.random.Generator) -> list[str]:
        return [bytes(self.ids[row]).decode() for row in rng.integers(0, len(self.ids), count)]


def _recommend(tracks: _Tracks, listeners: Any, rng: np.random.Generator) -> dict[str, Any]:
    body: dict[str, Any] = {"userId": bytes(listeners[rng.integers(len(listeners))]).decode()}
    if rng.random() < UNKNOWN:
        body["userId"] = "a listener whom nobody knows"
        if rng.random() < 0.5:
            body["history"] = tracks.heard(rng)
        else:
            (body["currentTrackId"],) = tracks.some(1, rng)
    elif rng.random() < PLAYING:
        (body["currentTrackId"],) = tracks.some(1, rng)
    if rng.random() < EXCLUDING:
        body["excludeIds"] = tracks.some(LIST_LENGTH, rng)
    if rng.random() < 0.5:
        body["context"] = {"hour": int(rng.integers(24))}
    return body


def _classify(tracks: _Tracks, by_id: bool, rng: np.random.Generator) -> dict[str, Any]:
    row = int(rng.integers(len(tracks.ids)))
    if by_id:
        return {"trackId": bytes(tracks.ids[row]).decode()}
    sound = dict(zip(AUDIO_NAMES, tracks.inputs[row].tolist(), strict=False))
    return {"audioFeatures": sound, "artists": tracks.artists[row].split(";")}


def _array(bundle: Path, name: str) -> Any:
    return np.load(bundle / f"{name}.npy", mmap_mode="r")
