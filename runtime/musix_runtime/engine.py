"""The engine: a bundle's answers. No HTTP in it; safe to call from many threads at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from musix_runtime import golden
from musix_runtime.arrays import ABSENT, Floats, Keys, Rows, Strings
from musix_runtime.bundle import Bundle
from musix_runtime.catalog import Catalog
from musix_runtime.collab import Collab
from musix_runtime.content import Content
from musix_runtime.errors import RequestError, UnknownTrackError, Violation
from musix_runtime.features import AUDIO_NAMES, INPUT_NAMES
from musix_runtime.genre import Genre
from musix_runtime.messages import (
    Classification,
    ClassifyRequest,
    GenreConfidence,
    MoodAnswer,
    Recommendation,
    Recommendations,
    RecommendRequest,
    Similar,
    SimilarRequest,
    SimilarTrack,
)
from musix_runtime.mood import MOODS, Mood
from musix_runtime.pool import NOBODY, Listener, Pool
from musix_runtime.ranker import COMPONENTS, Ranker
from musix_runtime.stages import Stages

TOP_GENRES = 5
DIGITS = 4  # of a confidence or probability: the sixth already depends on host and batch
WORDS = {
    "collab": "collaborative",
    "content": "content similarity",
    "preference": "listener preference",
    "freshness": "freshness",
    "diversity": "diversity",
}


@dataclass(frozen=True)
class Engine:
    """All five parts of one bundle, ready to answer. Make one with `Engine.open`."""

    bundle: Bundle
    catalog: Catalog
    genre: Genre
    mood: Mood
    pool: Pool
    ranker: Ranker

    @classmethod
    def open(cls, path: str | Path, trust: str | Path | None = None) -> "Engine":
        """Open and verify the bundle folder or packed file at `path`, and ask it a few golden cases.

        With `trust`, the file of a public key, it must be signed by that key. Raises BundleError when the bundle is not
        what it claims to be.
        """
        engine = cls.unproven(Bundle.open(path, trust))
        golden.replay(engine, engine.golden(), golden.FEW)
        return engine

    def golden(self) -> golden.Golden:
        """The bundle's golden cases."""
        return self.bundle.golden(golden.Golden)

    @classmethod
    def unproven(cls, bundle: Bundle) -> "Engine":
        """The engine over a verified bundle that was not asked its golden cases yet."""
        array = bundle.array
        catalog = Catalog(
            ids=Keys(array("catalog/ids.npy")),
            id_rows=array("catalog/id_rows.npy"),
            track_ids=array("catalog/track_ids.npy"),
            names=Strings(array("catalog/name_offsets.npy"), array("catalog/name_data.npy")),
            artists=Strings(array("catalog/artist_offsets.npy"), array("catalog/artist_data.npy")),
            inputs=array("catalog/inputs.npy"),
            families=array("catalog/families.npy"),
            moods=array("catalog/moods.npy"),
        )
        collab = Collab(
            listeners=Keys(array("collab/listeners.npy")),
            listener_factors=array("collab/listener_factors.npy"),
            rows=array("collab/rows.npy"),
            track_factors=array("collab/track_factors.npy"),
            track_mean=array("collab/track_mean.npy"),
            fold_in_map=array("collab/fold_in.npy"),
            history_offsets=array("collab/history_offsets.npy"),
            history_rows=array("collab/history_rows.npy"),
            recent=array("collab/history_recent.npy"),
        )
        pool = Pool(
            collab=collab,
            content=Content(bundle.index("content/index.faiss")),
            families=catalog.families,
            freshness=array("catalog/freshness.npy"),
            popularity=array("catalog/popularity.npy"),
            popular=array("catalog/popular.npy"),
            serving=bundle.manifest.serving,
        )
        genre = Genre(
            bundle.session("genre/model.onnx"), Keys(array("genre/artists.npy")), array("genre/artist_factors.npy")
        )
        ranker = Ranker(bundle.session("ranker/model.onnx"))
        return cls(bundle, catalog, genre, Mood(bundle.session("mood/model.onnx")), pool, ranker)

    def classify(self, request: ClassifyRequest) -> Classification:
        """Genre and mood of one track. Raises UnknownTrackError when neither features nor catalogue give them."""
        return self._classify([request], ["trackId"])[0]

    def classify_batch(self, requests: Sequence[ClassifyRequest]) -> list[Classification]:
        """Genre and mood of several tracks, in order; all of them, or the error of the first wrong one."""
        return self._classify(requests, [f"[{i}].trackId" for i in range(len(requests))])

    def _classify(self, requests: Sequence[ClassifyRequest], paths: list[str]) -> list[Classification]:
        if not requests:
            return []
        inputs, artists = self._inputs(requests, paths)
        confidences = self.genre.confidence(inputs, artists)
        moods = self.mood.probabilities(np.ascontiguousarray(inputs[:, : len(AUDIO_NAMES)]))
        timestamp = _now()
        return [self._classification(*each, timestamp) for each in zip(confidences, moods, strict=True)]

    def recommend(self, request: RecommendRequest, stages: Stages | None = None) -> Recommendations:
        """Up to `limit` tracks for a listener, best first, with reasons. With `stages`, notes how the time divides.

        A known listener is matched by factors, an unknown one with a history by folding it in; the current track, or
        else the history, is the query for content. With nothing known, popular tracks are proposed. Never proposed:
        excluded tracks, the current one, and those in any history.
        """
        stages = stages or Stages()
        listener, kind = self._listener(request)
        current = self.catalog.row(request.current_track_id)
        query = self._query(request, listener, current)
        stages.lap("look-up")
        rows = self.pool.candidates(listener, query, self._excluded(request, listener, current), request.limit)
        stages.lap("candidates")
        vectors = self.pool.content.vectors(rows)
        components = self.pool.components(listener, query, rows, vectors)
        short = self.pool.shortlist(components, request.limit)
        rows, vectors, components = rows[short], vectors[short], components[short]

        hour = math.nan if request.context.hour is None else request.context.hour
        context = np.array([len(listener.heard), hour], np.float32)
        stages.lap("features")
        picks, components = self.ranker.choose(components, vectors, context, request.limit)
        stages.lap("ranker")
        base, values = self.ranker.explain(components, context)
        stages.lap("reasons")
        source = _source(kind, listener, query)
        found = [self._recommendation(*each, source) for each in zip(rows[picks].tolist(), base, values, strict=True)]
        stages.lap("metadata")
        return Recommendations(found, source, _now())

    def similar(self, request: SimilarRequest) -> Similar:
        """The tracks nearest to a track of the catalogue. Raises UnknownTrackError."""
        row = self.catalog.row(request.track_id)
        if row is None:
            raise UnknownTrackError(request.track_id)
        (query,) = self.pool.content.vectors(np.array([row]))
        rows, cosines = self.pool.content.nearest(query, request.limit + 1)
        order = np.lexsort((rows, -np.rint(cosines * 1e6)))
        tracks = [
            SimilarTrack(*self._names(int(rows[i])), round(min(float(cosines[i]), 1.0), 6))
            for i in order
            if rows[i] != row
        ]
        return Similar(tracks[: request.limit])

    def _inputs(self, requests: Sequence[ClassifyRequest], paths: list[str]) -> tuple[Floats, list[Sequence[str]]]:
        """Raw inputs (n, 15) and artists of the requests, completed from the catalogue."""
        inputs = np.full((len(requests), len(INPUT_NAMES)), np.nan, np.float32)
        artists: list[Sequence[str]] = []
        for i, request in enumerate(requests):
            row = self.catalog.row(request.track_id)
            if row is not None:
                inputs[i] = self.catalog.inputs[row]
            elif request.audio_features is None:
                if request.track_id is None:
                    raise RequestError([Violation(paths[i], "is required when audioFeatures is not given")])
                raise UnknownTrackError(request.track_id, paths[i])
            given = request.audio_features
            if given is not None:
                inputs[i, : len(AUDIO_NAMES)] = [getattr(given, name) for name in AUDIO_NAMES]
            for name in INPUT_NAMES[len(AUDIO_NAMES) :]:
                value = getattr(request, name)
                if value is not None:
                    inputs[i, INPUT_NAMES.index(name)] = value
            if request.artists is not None:
                artists.append(request.artists)
            else:
                artists.append([] if row is None else self.catalog.artists[row].split(";"))
        return inputs, artists

    def _classification(self, confidence: Floats, moods: Floats, timestamp: str) -> Classification:
        best = np.argsort(-np.rint(confidence * 10**DIGITS), kind="stable")[:TOP_GENRES]
        genres = [GenreConfidence(self.bundle.manifest.families[i], round(float(confidence[i]), DIGITS)) for i in best]
        probabilities = {mood: round(float(p), DIGITS) for mood, p in zip(MOODS, moods, strict=True)}
        primary = max(probabilities, key=lambda mood: probabilities[mood])
        return Classification(genres, MoodAnswer(primary, probabilities), timestamp)

    def _listener(self, request: RecommendRequest) -> tuple[Listener, str]:
        collab = self.pool.collab
        known = collab.listeners.find_one(request.user_id)
        if known != ABSENT:
            matches = collab.matches(collab.listener_factors[known])
            return Listener(matches, collab.history(known), collab.history(known, request.time_range)), "hybrid"
        heard = self.catalog.rows(request.history or [])
        heard = heard[heard != ABSENT]
        if not len(heard):
            return NOBODY, "popular"
        factors = collab.fold_in(heard)
        return Listener(None if factors is None else collab.matches(factors), heard, heard), "history"

    def _query(self, request: RecommendRequest, listener: Listener, current: int | None) -> Floats | None:
        """What content shall be near to: the current track, when it is known; when none is given, what was heard."""
        if current is not None:
            return self.pool.content.vectors(np.array([current]))[0]
        if request.current_track_id is None and len(listener.taste):
            return self.pool.content.profile(listener.taste)
        return None

    def _excluded(self, request: RecommendRequest, listener: Listener, current: int | None) -> Rows:
        asked = self.catalog.rows([*request.exclude_ids, *(request.history or [])])
        now = np.array([] if current is None else [current], np.int64)
        return np.concatenate([asked[asked != ABSENT], listener.heard, now])

    def _recommendation(self, row: int, base: float, values: Floats, source: str) -> Recommendation:
        contributions = {name: float(value) for name, value in zip(COMPONENTS, values, strict=True)}
        families = int(self.catalog.families[row])
        return Recommendation(
            *self._names(row),
            score=round(float(base + values.sum()), 6),
            reason=reason(contributions, source),
            contributions={"base": float(base), **contributions},
            genre=[name for i, name in enumerate(self.bundle.manifest.families) if families >> i & 1],
            mood=MOODS[self.catalog.moods[row]],
        )

    def _names(self, row: int) -> tuple[str, str, str]:
        return self.catalog.track_id(row), self.catalog.names[row], self.catalog.artists[row].replace(";", ", ")


def reason(contributions: dict[str, float], source: str) -> str:
    """In words: each component's share in what speaks for the track, whole percents that sum to 100."""
    words = WORDS | ({"collab": "popularity"} if source == "popular" else {})
    helpful = {words[name]: value for name, value in contributions.items() if value > 0}
    total = sum(helpful.values())
    if not total:
        return "nothing speaks for this track but its turn"
    exact = {word: 100 * value / total for word, value in helpful.items()}
    percents = {word: math.floor(value) for word, value in exact.items()}
    for word in sorted(exact, key=lambda word: percents[word] - exact[word])[: 100 - sum(percents.values())]:
        percents[word] += 1  # largest remainder
    ordered = sorted(percents.items(), key=lambda item: -item[1])
    return " + ".join(f"{percent}% {word}" for word, percent in ordered if percent)


def _source(kind: str, listener: Listener, query: Floats | None) -> str:
    """Which way the tracks were found: `kind` of listener, unless only one of collab and content could answer."""
    if listener.matches is None:
        return "popular" if query is None else "content"
    return "collab" if query is None else kind


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
