"""The engine: a bundle's answers. No HTTP in it; safe to call from many threads at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from musix_runtime import golden, kernels
from musix_runtime.arrays import ABSENT, Floats, Keys, Rows, Scores, Strings
from musix_runtime.bundle import Bundle
from musix_runtime.catalog import Catalog, bare
from musix_runtime.collab import Collab
from musix_runtime.content import Content
from musix_runtime.errors import RequestError, UnknownTrackError, Violation, refusing
from musix_runtime.features import AUDIO_NAMES, INPUT_NAMES
from musix_runtime.genre import MAX_BATCH_TEXT, MAX_TRACK_TEXT, Genre, text_length
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
from musix_runtime.pool import NOBODY, Found, Listener, Named, Pool, Question
from musix_runtime.ranker import COMPONENTS, Ranker
from musix_runtime.stages import Stages

TOP_GENRES = 5
DIGITS = 4  # of a confidence or probability: the sixth already depends on host and batch
# What the components are called in a reason.
WORDS = ("collaborative", "content similarity", "listener preference", "freshness", "diversity")
POPULAR_WORDS = ("popularity", *WORDS[1:])
FEW = 100  # tracks to exclude that are faster looked up than compared with the candidates
CONTRIBUTIONS = ("base", *COMPONENTS)
UNTOLD = "nothing speaks for this track but its turn"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a request comes to: what the pool is asked, the ranker's context (2,), and the source of the answer."""

    question: Question
    context: Floats
    source: str


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
        bundle = Bundle.open(path, trust)
        with refusing(path):
            engine = cls.unproven(bundle)
            golden.replay(engine, engine.golden(), golden.FEW)
            return engine

    def golden(self) -> golden.Golden:
        """The bundle's golden cases. Raises LayoutError when there are too few, or they would prove nothing."""
        cases = self.bundle.golden(golden.Golden)
        golden.check(cases, self.bundle.path)
        return cases

    @classmethod
    def unproven(cls, bundle: Bundle) -> "Engine":
        """The engine over a verified bundle that was not asked its golden cases yet."""
        array = bundle.array
        catalog = Catalog(
            ids=Keys(array("catalog/ids.npy")),
            id_rows=array("catalog/id_rows.npy"),
            track_ids=Keys(array("catalog/track_ids.npy")),
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
            index=bundle.index("collab/index.faiss"),
            track_mean=array("collab/track_mean.npy"),
            tastes=array("collab/tastes.npy"),
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
            bundle.session("genre/model.onnx"),
            Keys(array("genre/artists.npy")),
            array("genre/artist_factors.npy"),
            Keys(array("genre/grams.npy")),
            array("genre/gram_weights.npy"),
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
        _check_texts(requests, paths)
        inputs, artists, titles = self._inputs(requests, paths)
        confidences = self.genre.confidence(inputs, artists, titles)
        moods = self.mood.probabilities(np.ascontiguousarray(inputs[:, : len(AUDIO_NAMES)]))
        return self._classifications(confidences, moods)

    def recommend(self, request: RecommendRequest, stages: Stages | None = None) -> Recommendations:
        """Up to `limit` tracks for a listener, best first, with reasons. With `stages`, notes how the time divides.

        A known listener is matched by factors, an unknown one with a history by folding it in; the current track, or
        else the history, is the query for content. With nothing known, popular tracks are proposed. Never proposed:
        excluded tracks, the current one, and those in any history.
        """
        stages = stages or Stages()
        prepared = self.prepare(request)
        stages.lap("look-up")
        (found,) = self.pool.search([prepared.question])
        return self.answer(prepared, found, stages)

    def prepare(self, request: RecommendRequest) -> Prepared:
        """What the pool is asked for a request. `recommend` is this, the pool's `search`, and `answer`."""
        history = self.catalog.rows(request.history or [])
        history, current = history[history != ABSENT], self.catalog.row(request.current_track_id)
        listener, kind = self._listener(request, history)
        query = self._query(request, listener, current)
        excluded, named = self._excluded(request, listener, history, current)
        hour = request.context.hour
        context = np.array([len(listener.heard), math.nan if hour is None else hour], np.float32)
        source = _source(kind, listener, query)
        return Prepared(Question(listener, query, request.limit, excluded, named), context, source)

    def answer(self, prepared: Prepared, found: Found, stages: Stages) -> Recommendations:
        """The best of what the pool has found, in order, and why."""
        stages.give("candidates", found.seconds)
        stages.lap("features")
        picks, components = self.ranker.choose(
            found.components, found.vectors, prepared.context, prepared.question.limit
        )
        stages.lap("ranker")
        base, values = self.ranker.explain(components, prepared.context)
        stages.lap("reasons")
        told = self._recommendations(found.rows[picks], base, values, prepared.source)
        stages.lap("metadata")
        return Recommendations(told, prepared.source, _now())

    def similar(self, request: SimilarRequest) -> Similar:
        """The tracks nearest to a track of the catalogue. Raises UnknownTrackError."""
        row = self.catalog.row(request.track_id)
        if row is None:
            raise UnknownTrackError(request.track_id)
        (query,) = self.pool.content.vectors(np.array([row]))
        rows, cosines = self.pool.content.nearest(query, request.limit + 1)
        order = np.lexsort((rows, -np.rint(cosines * 1e6)))
        order = order[rows[order] != row][: request.limit]
        shown = np.round(np.minimum(cosines[order].astype(np.float64), 1), 6).tolist()
        labels = self.catalog.labels(rows[order])
        return Similar([SimilarTrack(*each, cosine) for each, cosine in zip(labels, shown, strict=True)])

    def _inputs(
        self, requests: Sequence[ClassifyRequest], paths: list[str]
    ) -> tuple[Floats, list[Sequence[str]], list[str]]:
        """Raw inputs (n, 15), artists and titles of the requests, completed from the catalogue."""
        rows = self.catalog.rows([request.track_id or "" for request in requests])
        inputs = self.catalog.inputs[rows]
        inputs[rows == ABSENT] = np.nan
        artists: list[Sequence[str]] = []
        titles: list[str] = []
        for i, (request, row) in enumerate(zip(requests, rows.tolist(), strict=True)):
            given = request.audio_features
            if row == ABSENT and given is None:
                if request.track_id is None:
                    raise RequestError([Violation(paths[i], "is required when audioFeatures is not given")])
                raise UnknownTrackError(request.track_id, paths[i])
            if given is not None:
                inputs[i, : len(AUDIO_NAMES)] = [getattr(given, name) for name in AUDIO_NAMES]
            for name in INPUT_NAMES[len(AUDIO_NAMES) :]:
                value = getattr(request, name)
                if value is None and name == "duration_ms" and given is not None:
                    value = given.duration_ms
                if value is not None:
                    inputs[i, INPUT_NAMES.index(name)] = value
            if request.artists is not None:
                artists.append(request.artists)
            else:
                artists.append([] if row == ABSENT else self.catalog.artists[row].split(";"))
            if request.name is not None:
                titles.append(request.name)
            else:
                titles.append("" if row == ABSENT else self.catalog.names[row])
        return inputs, artists, titles

    def _classifications(self, confidences: Floats, moods: Floats) -> list[Classification]:
        shares, chances = _rounded(confidences), _rounded(moods)
        best = np.argsort(-shares, axis=1, kind="stable")[:, :TOP_GENRES]
        families, timestamp = self.bundle.manifest.families, _now()
        columns = (each.tolist() for each in (best, shares, chances, chances.argmax(axis=1)))
        return [
            Classification(
                [GenreConfidence(families[i], share[i]) for i in genres],
                MoodAnswer(MOODS[primary], dict(zip(MOODS, probabilities, strict=True))),
                timestamp,
            )
            for genres, share, probabilities, primary in zip(*columns, strict=True)
        ]

    def _excluded(
        self, request: RecommendRequest, listener: Listener, history: Rows, current: int | None
    ) -> tuple[Rows, Named | None]:
        """What must not be proposed: rows, and tracks by name. These may be thousands, of which few are in question:
        more than a `FEW` are not looked up."""
        named = {bare(each) for each in request.exclude_ids}
        known = [] if current is None else [current]
        if len(named) <= FEW:
            known += [row for row in map(self.catalog.row, named) if row is not None]
        rows = listener.heard
        if known or len(history):
            rows = np.concatenate([rows, history, np.array(known, np.int64)])
        return rows, (lambda rows: self.catalog.named(rows, named)) if len(named) > FEW else None

    def _listener(self, request: RecommendRequest, asked: Rows) -> tuple[Listener, str]:
        """Who asks, and how known: by id, by the history in the request (`asked`: its rows), or not at all."""
        collab = self.pool.collab
        known = collab.listeners.find_one(request.user_id)
        if known != ABSENT:
            heard = collab.history(known)
            taste = heard[: collab.count(known, request.time_range)]
            return Listener(collab.matches(collab.listener_factors[known]), heard, taste), "hybrid"
        if not len(asked):
            return NOBODY, "popular"
        factors = collab.fold_in(asked)
        return Listener(None if factors is None else collab.matches(factors), asked, asked), "history"

    def _query(self, request: RecommendRequest, listener: Listener, current: int | None) -> Floats | None:
        """What content shall be near to: the current track, when it is known; when none is given, what was heard."""
        if current is not None:
            return self.pool.content.vectors(np.array([current]))[0]
        if request.current_track_id is None and len(listener.taste):
            return self.pool.content.profile(listener.taste)
        return None

    def _recommendations(self, rows: Rows, base: Scores, values: Scores, source: str) -> list[Recommendation]:
        words = POPULAR_WORDS if source == "popular" else WORDS
        told = kernels.tell(base, values, CONTRIBUTIONS, words, UNTOLD)
        families, moods = self.catalog.families[rows].tolist(), self.catalog.moods[rows].tolist()
        return [
            Recommendation(*label, *each, self._genres(bits), MOODS[mood])
            for label, each, bits, mood in zip(self.catalog.labels(rows), told, families, moods, strict=True)
        ]

    def _genres(self, bits: int) -> list[str]:
        names = []
        while bits:
            lowest = bits & -bits
            names.append(self.bundle.manifest.families[lowest.bit_length() - 1])
            bits ^= lowest
        return names


def _check_texts(requests: Sequence[ClassifyRequest], paths: list[str]) -> None:
    """Raise RequestError when artists and names are so long that to read them takes long."""
    total = 0
    for request, path in zip(requests, paths, strict=True):
        length = text_length([*(request.artists or ()), request.name or ""])
        if length > MAX_TRACK_TEXT:
            message = f"expected at most {MAX_TRACK_TEXT:,} characters in all artists and the name, found {length:,}"
            raise RequestError([Violation(f"{path.removesuffix('trackId')}artists", message)])
        total += length
    if total > MAX_BATCH_TEXT:
        message = f"expected at most {MAX_BATCH_TEXT:,} characters in all artists and names, found {total:,}"
        raise RequestError([Violation("$", message)])


def _rounded(shares: Floats) -> Scores:
    return np.rint(shares.astype(np.float64) * 10**DIGITS) / 10**DIGITS


def _source(kind: str, listener: Listener, query: Floats | None) -> str:
    """Which way the tracks were found: `kind` of listener, unless only one of collab and content could answer."""
    if listener.matches is None:
        return "popular" if query is None else "content"
    return "collab" if query is None else kind


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
