"""The engine: a bundle's answers. No HTTP in it; safe to call from many threads at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from musix_runtime import golden
from musix_runtime.bundle.part import Part
from musix_runtime.bundle.reader import Bundle
from musix_runtime.errors import FieldError, RequestError, UnknownTrackError, refusing
from musix_runtime.models import artists, because, catalog, collab, content, explanation, filters, genre, mood, ranker
from musix_runtime.models.arrays import ABSENT, Floats, Rows, Scores, gather
from musix_runtime.models.candidate_features import prefilter_by_blend
from musix_runtime.models.catalog import Catalog
from musix_runtime.models.explanation import ReasonWriter
from musix_runtime.models.features import AUDIO_NAMES, INPUT_NAMES
from musix_runtime.models.genre import MAX_BATCH_TEXT, MAX_TRACK_TEXT, Genre, text_length
from musix_runtime.models.mood import MOODS, Mood
from musix_runtime.models.parts import PARTS, open_bundle
from musix_runtime.models.ranker import COMPONENTS, MICRO, Ranker
from musix_runtime.models.resolve import resolve
from musix_runtime.models.retrieval import Retriever
from musix_runtime.schemas import (
    Cause,
    ClassifyRequest,
    ClassifyResponse,
    GenreConfidence,
    MoodPrediction,
    Recommendation,
    RecommendRequest,
    RecommendResponse,
    SimilarRequest,
    SimilarResponse,
    SimilarTrack,
)
from musix_runtime.timing import StageTimer, mark_all

T = TypeVar("T")
TOP_GENRES = 5
DIGITS = 4  # of a confidence or probability: the sixth already depends on host and batch
# What the components are called in a reason.
REASON_LABELS = ("collaborative", "content similarity", "listener preference", "freshness", "diversity")
REASONS, POPULAR_REASONS = ReasonWriter(REASON_LABELS), ReasonWriter(("popularity", *REASON_LABELS[1:]))
CONTRIBUTIONS = ("base", *COMPONENTS)


@dataclass(frozen=True)
class Engine:
    """The loaded models of a bundle's parts, by name, and the responses that they give together.

    Make one with `Engine.open`. `with_models` puts other models in their place.
    """

    bundle: Bundle
    models: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path, trust: str | Path | None = None, parts: tuple[Part[Any], ...] = PARTS) -> "Engine":
        """Open and verify the bundle folder or packed file at `path`, and replay a few golden cases.

        With `trust`, the file of a public key, it must be signed by that key. `parts` are those that it must hold.
        Raises BundleError when the bundle is not what it claims to be.
        """
        bundle = open_bundle(path, trust, parts)
        with refusing(path):
            engine = cls.from_bundle(bundle)
            golden.replay(engine, engine.golden(), golden.OPENING_CASES)
            return engine

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> "Engine":
        """Load every part of a verified bundle, without replaying golden cases. Raises LayoutError."""
        return cls(bundle, bundle.load())

    def golden(self) -> golden.Golden:
        """Return the bundle's golden cases. Raises LayoutError when they are too few or their tolerance too large."""
        cases = self.bundle.golden(golden.Golden)
        golden.check(cases, self.bundle.layout, self.bundle.path)
        return cases

    @property
    def parts(self) -> tuple[Part[Any], ...]:
        """The declarations of the parts."""
        return self.bundle.layout.parts

    def model(self, part: Part[T]) -> T:
        """Return the model of a part."""
        return cast(T, self.models[part.name])

    def with_models(self, **models: Any) -> "Engine":
        """Return an engine with other models of the parts that are named."""
        return replace(self, models={**self.models, **models})

    @cached_property
    def catalog(self) -> Catalog:
        """The catalogue."""
        return self.model(catalog.PART)

    @cached_property
    def genre(self) -> Genre:
        """The genre model."""
        return self.model(genre.PART)

    @cached_property
    def mood(self) -> Mood:
        """The mood model."""
        return self.model(mood.PART)

    @cached_property
    def ranker(self) -> Ranker:
        """The ranker."""
        return self.model(ranker.PART)

    @cached_property
    def retriever(self) -> Retriever:
        """Candidate retrieval by the artists, collab and content parts."""
        return Retriever(
            artists=self.model(artists.PART),
            collab=self.model(collab.PART),
            content=self.model(content.PART),
            families=self.catalog.families,
            freshness=self.catalog.freshness,
            popularity=self.catalog.popularity,
            popular=self.catalog.popular,
            serving=self.bundle.manifest.serving,
        )

    def classify(self, request: ClassifyRequest) -> ClassifyResponse:
        """Genre and mood of one track. Raises UnknownTrackError when neither features nor catalogue give them."""
        return self._classify([request], ["trackId"])[0]

    def classify_batch(self, requests: Sequence[ClassifyRequest]) -> list[ClassifyResponse]:
        """Genre and mood of several tracks, in order; all of them, or the error of the first wrong one."""
        return self._classify(requests, [f"[{i}].trackId" for i in range(len(requests))])

    def _classify(self, requests: Sequence[ClassifyRequest], paths: list[str]) -> list[ClassifyResponse]:
        if not requests:
            return []
        _check_texts(requests, paths)
        inputs, artists, titles = self._inputs(requests, paths)
        confidences, evidence = self.genre.predict(inputs, artists, titles)
        moods = self.mood.probabilities(np.ascontiguousarray(inputs[:, : len(AUDIO_NAMES)]))
        return self._classifications(confidences, moods, evidence)

    def recommend(self, request: RecommendRequest, stages: StageTimer | None = None) -> RecommendResponse:
        """Up to `limit` tracks for a listener, best first, with reasons. With `stages`, notes how the time divides.

        A known listener is matched by factors, an unknown one with a history by folding it in; the current track and
        the history are the query for content. With nothing known, popular tracks are proposed. Never proposed:
        excluded tracks, the current one, those in any history, and those that the filters do not allow. Raises
        RequestError for filters with unknown names.
        """
        return self.recommend_batch([request], [stages] if stages else [])[0]

    def recommend_batch(
        self, requests: Sequence[RecommendRequest], stages: Sequence[StageTimer] = ()
    ) -> list[RecommendResponse]:
        """The answer to each of several requests, in order: the same that each would get alone. All `stages` note how
        the time of the batch divides."""
        if not requests:
            return []
        resolved = resolve(requests, self.catalog, self.retriever)
        query, context = resolved.query, resolved.context
        mark_all(stages, "lookup")
        candidates = self.retriever.retrieve(query)
        mark_all(stages, "candidates")
        serving = self.bundle.manifest.serving
        features = self.retriever.features(query, candidates)
        features = prefilter_by_blend(features, self._blend, np.maximum(serving.pool, query.limits))
        mark_all(stages, "features")
        places, components, counts = self.ranker.select(features, context, query.limits)
        mark_all(stages, "ranker")
        base, values = self.ranker.explain(components, context)
        mark_all(stages, "explain")
        rows = features.rows.take(places)
        causes = because.causes(self.retriever, query.profile_items, resolved.current, rows, values)
        chosen = np.arange(rows.shape[1]) < counts[:, None]
        popular = np.repeat([source == "popular" for source in resolved.sources], counts)
        reasons = self._causes(causes.rows[chosen], causes.shares[chosen])
        positions = chosen.nonzero()[1] + 1
        tracks = iter(
            self._recommendations(rows[chosen], base[chosen], values[chosen], reasons, popular.tolist(), positions)
        )
        timestamp = _now()
        answers = [
            RecommendResponse(list(islice(tracks, count)), source, unknown, timestamp)
            for count, source, unknown in zip(counts.tolist(), resolved.sources, resolved.unknown_ids, strict=True)
        ]
        mark_all(stages, "hydrate")
        return answers

    @cached_property
    def _blend(self) -> Floats:
        """Weights of the components in the blend. Shape (5,)."""
        blend = self.bundle.manifest.serving.blend
        return np.array([blend[name] for name in COMPONENTS], np.float32)

    def similar(self, request: SimilarRequest) -> SimilarResponse:
        """The tracks nearest to a track of the catalogue. Raises UnknownTrackError, or RequestError for filters with
        unknown names."""
        row = self.catalog.row(request.track_id)
        if row is None:
            raise UnknownTrackError(request.track_id)
        (query,) = self.retriever.content.vectors(np.array([row]))
        mask = filters.passing(request.filters, self.catalog)
        rows, cosines = self.retriever.content.nearest(query, request.limit + 1, mask)
        order = np.lexsort((rows, -np.rint(cosines * 1e6)))
        order = order[rows[order] != row][: request.limit]
        shown = np.round(np.minimum(cosines[order].astype(np.float64), 1), 6).tolist()
        labels = self.catalog.labels(rows[order])
        return SimilarResponse([SimilarTrack(*each, cosine) for each, cosine in zip(labels, shown, strict=True)])

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
                    raise RequestError([FieldError(paths[i], "is required when audioFeatures is not given")])
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

    def _classifications(self, confidences: Floats, moods: Floats, evidence: list[list[str]]) -> list[ClassifyResponse]:
        shares, chances = _rounded(confidences), _rounded(moods)
        best = np.argsort(-shares, axis=1, kind="stable")[:, :TOP_GENRES]
        families, timestamp = self.bundle.manifest.families, _now()
        columns = (each.tolist() for each in (best, shares, chances, chances.argmax(axis=1)))
        return [
            ClassifyResponse(
                [GenreConfidence(families[i], share[i]) for i in genres],
                MoodPrediction(MOODS[primary], dict(zip(MOODS, probabilities, strict=True))),
                timestamp,
                known,
            )
            for genres, share, probabilities, primary, known in zip(*columns, evidence, strict=True)
        ]

    def _causes(self, rows: Rows, shares: Floats) -> list[list[Cause]]:
        """Return the causes of each recommendation, from their rows and shares (n, m)."""
        heard = np.unique(rows[rows != ABSENT])
        labels: dict[int, tuple[str, str, str]] = dict(zip(heard.tolist(), self.catalog.labels(heard), strict=True))
        digits = _rounded(shares).tolist()
        return [
            [Cause(*labels[row], share) for row, share in zip(named, parts, strict=True) if row != ABSENT]
            for named, parts in zip(rows.tolist(), digits, strict=True)
        ]

    def _recommendations(
        self,
        rows: Rows,
        base: Scores,
        values: Scores,
        causes: list[list[Cause]],
        popular: list[bool],
        positions: Rows,
    ) -> list[Recommendation]:
        """Tracks as they are answered: of rows (n,) with base (n,), values (n, 5) and causes, whether each was proposed
        as popular, and its position in its list (n,)."""
        scores = np.rint((base + values.sum(axis=1)) * MICRO) / MICRO
        percents = explanation.percentages(values)
        order = (-percents).argsort(axis=1, kind="stable")
        writers = [POPULAR_REASONS if each else REASONS for each in popular]
        families, moods = gather(self.catalog.families, rows), gather(self.catalog.moods, rows)
        columns = scores, percents, order, np.column_stack([base, values]), families, moods, positions
        lists = zip(*(each.tolist() for each in columns), causes, writers, strict=True)
        return [
            Recommendation(
                *label,
                score,
                writer.reason(shares, ranked),
                dict(zip(CONTRIBUTIONS, numbers, strict=True)),
                named,
                self._genres(bits),
                MOODS[mood],
                position,
            )
            for label, (score, shares, ranked, numbers, bits, mood, position, named, writer) in zip(
                self.catalog.labels(rows), lists, strict=True
            )
        ]

    @cached_property
    def _genres(self) -> Callable[[int], list[str]]:
        """The names of the families that are the bits of a number."""
        families = self.bundle.manifest.families

        @lru_cache(maxsize=4096)
        def genres(bits: int) -> list[str]:
            return [name for i, name in enumerate(families) if bits >> i & 1]

        return genres


def _check_texts(requests: Sequence[ClassifyRequest], paths: list[str]) -> None:
    """Raise RequestError when artists and names are so long that to read them takes long."""
    total = 0
    for request, path in zip(requests, paths, strict=True):
        length = text_length([*(request.artists or ()), request.name or ""])
        if length > MAX_TRACK_TEXT:
            message = f"expected at most {MAX_TRACK_TEXT:,} characters in all artists and the name, found {length:,}"
            raise RequestError([FieldError(f"{path.removesuffix('trackId')}artists", message)])
        total += length
    if total > MAX_BATCH_TEXT:
        message = f"expected at most {MAX_BATCH_TEXT:,} characters in all artists and names, found {total:,}"
        raise RequestError([FieldError("$", message)])


def _rounded(shares: Floats) -> Scores:
    return np.rint(shares.astype(np.float64) * 10**DIGITS) / 10**DIGITS


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
