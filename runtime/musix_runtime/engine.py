"""The engine: a bundle's answers. No HTTP in it; safe to call from many threads at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from musix_runtime import golden
from musix_runtime.bundle.part import Part
from musix_runtime.bundle.reader import Bundle
from musix_runtime.errors import InputError, UnknownTrackError, refusing
from musix_runtime.models import artists, because, catalog, collab, content, filters, genre, mood, ranker, responses
from musix_runtime.models.arrays import Floats
from musix_runtime.models.candidate_features import prefilter_by_blend
from musix_runtime.models.catalog import Catalog
from musix_runtime.models.features import AUDIO_NAMES
from musix_runtime.models.genre import Genre
from musix_runtime.models.mood import Mood
from musix_runtime.models.parts import PARTS, open_bundle
from musix_runtime.models.ranker import COMPONENTS, BlendSession, Ranker
from musix_runtime.models.resolve import forget_user, resolve
from musix_runtime.models.retrieval import Retriever
from musix_runtime.models.track_inputs import track_inputs
from musix_runtime.parsing import check, check_all
from musix_runtime.schemas import (
    ClassifyRequest,
    ClassifyResponse,
    RecommendRequest,
    RecommendResponse,
    SimilarRequest,
    SimilarResponse,
    SimilarTrack,
)
from musix_runtime.timing import StageTimer, mark_all

T = TypeVar("T")
POPULAR, BLEND = POLICIES = ("popular", "blend")  # see `apply_policy`


@dataclass(frozen=True, eq=False)
class Engine:
    """The loaded models of a bundle's parts, by name, and the responses that they give together.

    Make one with `Engine.open`. `with_models` puts other models in their place. Requests with wrong types or values
    raise RequestError; with `checked`, as those that were parsed, they are not looked at.
    """

    bundle: Bundle
    models: Mapping[str, Any]
    personal: bool = True  # else every listener is recommended what a first visitor would be

    @classmethod
    def open(cls, path: str | Path, trust: str | Path | None = None, parts: tuple[Part[Any], ...] = PARTS) -> "Engine":
        """Open and verify the bundle folder or packed file at `path`, and replay a few golden cases.

        With `trust`, the file of a public key, it must be signed by that key. `parts` are those that it must hold.
        Raises BundleError when the bundle is not what it claims to be.
        """
        for name, given in (("path", path), ("trust", trust)):
            if not isinstance(given, str | Path) and (name == "path" or given is not None):
                raise InputError(f"{name}: expected a str or Path, found {type(given).__name__}")
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

    def classify(self, request: ClassifyRequest, *, checked: bool = False) -> ClassifyResponse:
        """Genre and mood of one track. Raises UnknownTrackError when neither features nor catalogue give them."""
        return self._classify([request if checked else check(request, ClassifyRequest)], ["trackId"])[0]

    def classify_batch(self, requests: Sequence[ClassifyRequest], *, checked: bool = False) -> list[ClassifyResponse]:
        """Genre and mood of several tracks, in order; all of them, or the error of the first wrong one."""
        requests = requests if checked else check_all(requests, ClassifyRequest)
        return self._classify(requests, [f"[{i}].trackId" for i in range(len(requests))])

    def _classify(self, requests: Sequence[ClassifyRequest], paths: list[str]) -> list[ClassifyResponse]:
        if not requests:
            return []
        inputs, artists, titles = track_inputs(requests, paths, self.catalog)
        confidences, evidence = self.genre.predict(inputs, artists, titles)
        moods = self.mood.probabilities(np.ascontiguousarray(inputs[:, : len(AUDIO_NAMES)]))
        return responses.classifications(self.bundle.manifest.families, confidences, moods, evidence)

    def recommend(self, request: RecommendRequest, stages: StageTimer | None = None) -> RecommendResponse:
        """Up to `limit` tracks for a listener, best first, with reasons. With `stages`, notes how the time divides.

        A known listener is matched by factors, an unknown one with a history by folding it in; the current track and
        the history are the query for content. With nothing known, popular tracks are proposed. Never proposed:
        excluded tracks, the current one, those in any history, and those that the filters do not allow. Raises
        RequestError for filters with unknown names.
        """
        requests = [check(request, RecommendRequest)]
        return self.recommend_batch(requests, [stages] if stages else [], checked=True)[0]

    def recommend_batch(
        self, requests: Sequence[RecommendRequest], stages: Sequence[StageTimer] = (), *, checked: bool = False
    ) -> list[RecommendResponse]:
        """The answer to each of several requests, in order: the same that each would get alone. All `stages` note how
        the time of the batch divides."""
        requests = requests if checked else check_all(requests, RecommendRequest)
        if not requests:
            return []
        resolved = resolve(requests, self.catalog, self.retriever)
        if not self.personal:
            resolved = forget_user(resolved, self.retriever, [request.max_per_artist for request in requests])
        query, context = resolved.query, resolved.context
        mark_all(stages, "lookup")
        candidates = self.retriever.retrieve(query)
        mark_all(stages, "candidates")
        serving = self.bundle.manifest.serving
        features = self.retriever.features(query, candidates)
        features = prefilter_by_blend(features, self.blend, np.maximum(serving.pool, query.limits))
        mark_all(stages, "features")
        places, components, counts = self.ranker.select(features, context, query.limits)
        mark_all(stages, "ranker")
        base, values = self.ranker.explain(components, context)
        mark_all(stages, "explain")
        rows = features.rows.take(places)
        causes = because.causes(self.retriever, query.profile_items, resolved.current, rows, values)
        answers = responses.recommendations(self.catalog, resolved, rows, counts, base, values, causes)
        mark_all(stages, "hydrate")
        return answers

    def recall(self, request: RecommendRequest) -> dict[str, float]:
        """The share of the exact nearest vectors that the searches for a request find, by part. It computes every
        product, which takes milliseconds to tens of them."""
        return self.retriever.recall(resolve([check(request, RecommendRequest)], self.catalog, self.retriever).query)

    @cached_property
    def blend(self) -> Floats:
        """Weights of the components in the blend. Shape (5,)."""
        blend = self.bundle.manifest.serving.blend
        return np.array([blend[name] for name in COMPONENTS], np.float32)

    def similar(self, request: SimilarRequest, *, checked: bool = False) -> SimilarResponse:
        """The tracks nearest to a track of the catalogue. Raises UnknownTrackError, or RequestError for filters with
        unknown names."""
        request = request if checked else check(request, SimilarRequest)
        row = self.catalog.row(request.track_id)
        if row is None:
            raise UnknownTrackError(request.track_id)
        (query,) = self.retriever.content.vectors(np.array([row]))
        mask = filters.passing(request.filters, self.catalog)
        rows, _ = self.retriever.content.nearest(query, request.limit + 1, mask)
        cosines = self.retriever.content.cosines(query, rows)  # whatever vectors the file of the index has
        order = np.lexsort((rows, -np.rint(cosines * 1e6)))
        order = order[rows[order] != row][: request.limit]
        shown = np.round(np.minimum(cosines[order].astype(np.float64), 1), 6).tolist()
        labels = self.catalog.labels(rows[order])
        return SimilarResponse([SimilarTrack(*each, cosine) for each, cosine in zip(labels, shown, strict=True)])


def apply_policy(engine: Engine, policy: str) -> Engine:
    """Return an engine that recommends by a fixed policy, from the same bundle.

    `popular` gives every listener the list of a first visitor, without what the listener has heard. `blend` ranks by
    the bundle's blend of the components in place of the network.
    """
    if policy == POPULAR:
        return replace(engine, personal=False)
    if policy == BLEND:
        return engine.with_models(ranker=Ranker(BlendSession(engine.blend)))
    raise ValueError(f"policy: expected {' or '.join(POLICIES)}, found {policy!r}")
