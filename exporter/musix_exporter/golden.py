"""Golden cases: responses of the runtime's engine with the native models to requests that cover every path."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import product
from typing import Any, TypeVar, get_args

import msgspec
import numpy as np

from musix_exporter.part import Part
from musix_exporter.parts import PARTS
from musix_runtime.engine import Engine
from musix_runtime.errors import GoldenError
from musix_runtime.golden import ClassifyCase, Golden, RecommendCase, replay
from musix_runtime.models.features import AUDIO
from musix_runtime.models.mood import MOODS
from musix_runtime.models.ranker import Ranker
from musix_runtime.schemas import AudioFeatures, ClassifyRequest, Context, Filters, RecommendRequest, TimeRange
from musix_trainer.models.collab import DAY
from musix_trainer.run import Run

logger = logging.getLogger(__name__)
T = TypeVar("T", bound=msgspec.Struct)
CASES = 64
STABLE_SHARE = 0.5  # share of the tolerance that a case may use up on this host
SCORE_NOISE = 1e-6  # by which rounding on another host may change a score
MAX_DRAWS = 20  # random requests of one kind
OTHER_KINDS = 3  # that may take the place of one of whose requests none has a stable response


def cases(run: Run, engine: Engine, parts: Sequence[Part] = PARTS) -> Golden:
    """Return requests, and the responses of PyTorch, XGBoost and LightFM to them.

    A request whose response depends on a near tie is replaced: the case would fail on another host, or on this one.
    Raises GoldenError when `MAX_DRAWS` requests of a kind, and of the next ones, are like that.
    """
    native = engine.with_models(**_native_models(run, engine, parts))
    session = engine.ranker.session
    noisy = [engine.with_models(ranker=Ranker(_NoisySession(session, sign))) for sign in (-1, 1)]
    tolerance = {part.name: part.golden_tolerance for part in parts if part.golden_tolerance is not None}
    stable = {part: allowed * STABLE_SHARE for part, allowed in tolerance.items()}
    rng = np.random.default_rng(0)

    def classify(number: int, attempt: int) -> Golden:
        request = _classify(run, rng, number)
        return Golden(stable, [ClassifyCase(request, _without(native.classify(request), "timestamp"))], [])

    def recommend(number: int, attempt: int) -> Golden:
        request = _recommend(run, rng, number, attempt)
        return Golden(stable, [], [RecommendCase(request, _without(native.recommend(request), "generated_at"))])

    return Golden(
        tolerance,
        [_stable(classify, number, engine).classify[0] for number in range(CASES)],
        [_stable(recommend, number, engine, noisy).recommend[0] for number in range(CASES)],
    )


def _native_models(run: Run, engine: Engine, parts: Sequence[Part]) -> dict[str, Any]:
    """Return the native models of the parts.

    When an index is approximate, parts with an index are left out: an exact search would find other candidates. The
    recall of the index is in the manifest.
    """
    exact = all(info.kind == "flat" for info in engine.bundle.manifest.indexes.values())
    return {part.name: part.native(run) for part in parts if part.native and (exact or not part.runtime.indexes)}


def _stable(draw: Callable[[int, int], Golden], number: int, engine: Engine, noisy: Sequence[Engine] = ()) -> Golden:
    """Return the first drawn case that all engines answer equally: of the kind `number`, or else, which is logged, of
    one of the next `OTHER_KINDS`, if only the noisy engines answered that kind otherwise. Raises GoldenError when there
    is none."""
    for kind in range(number, number + OTHER_KINDS + 1):
        has_near_ties = False
        for attempt in range(MAX_DRAWS):
            case = draw(kind, attempt)
            try:
                replay(engine, case)
                has_near_ties = bool(noisy)
                for other in noisy:
                    replay(other, case)
            except GoldenError as error:
                found = str(error).replace(" case 0:", f" case {number}:")  # each draw is replayed alone
            else:
                return case
        found += f"; none of {MAX_DRAWS} such requests has a stable response: scores that are almost equal may change"
        found += " places on another host"
        if not has_near_ties:
            break
        logger.warning("%s; a request of another kind takes its place", found)
    raise GoldenError(found)


@dataclass(frozen=True)
class _NoisySession:
    """A session of the ranker graph that alternately adds `SCORE_NOISE` to a score and subtracts it from the next
    higher one. Equal scores stay equal: rounding does not part candidates with the same features."""

    session: Any
    sign: int

    def run(self, outputs: list[str], feed: dict[str, Any]) -> list[Any]:
        (scores,) = self.session.run(outputs, feed)
        ranks = np.unique(scores, return_inverse=True)[1].reshape(scores.shape)
        noise = np.where(ranks % 2, SCORE_NOISE, -SCORE_NOISE) * self.sign
        return [(scores + noise).astype(np.float32)]


def _without(response: T, field: str) -> T:
    """Return the response with an empty `field`, as it is the time of the response."""
    return msgspec.structs.replace(response, **{field: ""})


def _classify(run: Run, rng: np.random.Generator, number: int) -> ClassifyRequest:
    """Return a request of the kind `number`.

    The first two have the ends of all ranges. The others have a track id, or audio features with known, unknown or no
    artists, with and without title, popularity and duration.
    """
    if number < 2:
        return ClassifyRequest(
            audio_features=AudioFeatures(*(getattr(feature, ("low", "high")[number]) for feature in AUDIO))
        )
    names, titles, ids = run.catalogue.artists(), run.catalogue.frame["track_name"], run.catalogue.frame["track_id"]
    row = int(rng.integers(len(names)))
    features = AudioFeatures(*(float(value) for value in run.catalogue.inputs[row, : len(AUDIO)]))
    kinds = (
        ClassifyRequest(track_id=ids[row]),
        ClassifyRequest(audio_features=features, artists=names[row]),
        ClassifyRequest(audio_features=features, artists=["nobody knows this one"], popularity=50, explicit=False),
        ClassifyRequest(audio_features=features, artists=[*names[row], "nor this one"], duration_ms=200_000),
        ClassifyRequest(audio_features=features, artists=[]),
        ClassifyRequest(audio_features=features, artists=["nor this one"], name=titles[row]),
    )
    return kinds[(number - 2) % len(kinds)]


def _recommend(run: Run, rng: np.random.Generator, number: int, attempt: int) -> RecommendRequest:
    """Return a request of the kind `number`: every kind of user and of current track, with every limit. Exclusions,
    time range and hour alternate. Every fourth request has filters.

    Later attempts have other hours and limits up to that one: some kinds have nothing else that could be drawn.
    """
    ids = run.catalogue.frame["track_id"]
    listeners = run.collab.listeners
    kinds = list(product(("known", "history", "unknown"), ("known", "unknown", None), (10, 1, 100)))
    ranges = get_args(TimeRange)
    user, current, limit = kinds[number % len(kinds)]
    hour = number % 24 if number % 3 else None
    if attempt:
        most = max(1, limit >> attempt // 4)  # short lists at last, which have fewer near ties
        limit, hour = int(rng.integers(1, most + 1)), (number + attempt) % 24
    tracks = [ids[int(row)] for row in rng.integers(0, len(ids), 20)]
    return RecommendRequest(
        user_id=listeners[rng.integers(len(listeners))].decode() if user == "known" else "nobody knows this listener",
        current_track_id={"known": tracks[0], "unknown": "no such track", None: None}[current],
        limit=limit,
        exclude_ids=tracks[1:10] if number % 2 else [],
        time_range=ranges[number % len(ranges)],
        history=tracks[10 : 11 + number % 9] if user == "history" else None,
        context=Context(hour=hour),
        filters=_filters(run, rng, number // 4) if number % 4 == 3 else None,
    )


def _filters(run: Run, rng: np.random.Generator, number: int) -> Filters:
    """Return filters of the kind `number`: each kind alone, and several together."""
    genre, mood = str(rng.choice(run.catalogue.labels)), str(rng.choice(MOODS))
    released = run.catalogue.frame["release_date"].drop_nulls().to_numpy()
    median_day = int(np.median(released)) // DAY if len(released) else 0
    kinds = (
        Filters(genres=[genre]),
        Filters(moods=[mood, "calm"]),
        Filters(explicit=bool(number % 2)),
        Filters(released_after=date(1970, 1, 1) + timedelta(median_day)),
        Filters(genres=run.catalogue.labels[::2], moods=[mood], explicit=False),
    )
    return kinds[number % len(kinds)]
