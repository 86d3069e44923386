"""Golden cases: the runtime's engine with the native models in it answers questions that reach every path."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from musix_runtime.models.ranker import Ranker
from musix_runtime.schemas import AudioFeatures, ClassifyRequest, Context, RecommendRequest, TimeRange
from musix_trainer.run import Run

T = TypeVar("T", bound=msgspec.Struct)
CASES = 64
STABLE_SHARE = 0.5  # of the tolerance: what a case may be off by on this host
SHAKE = 1e-6  # of a score: as much as another host's rounding may change
DRAWS = 20  # requests of one kind that are tried before none is stable


def cases(run: Run, engine: Engine, parts: Sequence[Part] = PARTS) -> Golden:
    """Return requests, and responses by PyTorch, XGBoost and LightFM in place of the bundle's graphs and arrays.

    A request whose response hangs on a near tie is drawn anew: it would fail on another host, or already here. Raises
    GoldenError when `DRAWS` requests of a kind are like that: then it is not chance.
    """
    native = engine.with_models(**_native_models(run, engine, parts))
    session = engine.ranker.session
    shaken = [engine.with_models(ranker=Ranker(_Shaken(session, sign))) for sign in (-1, 1)]
    tolerance = {part.name: part.golden_tolerance for part in parts if part.golden_tolerance is not None}
    stable = {part: allowed * STABLE_SHARE for part, allowed in tolerance.items()}
    rng = np.random.default_rng(0)

    def classify(number: int) -> Golden:
        request = _classify(run, rng, number)
        return Golden(stable, [ClassifyCase(request, _timeless(native.classify(request), "timestamp"))], [])

    def recommend(number: int) -> Golden:
        request = _recommend(run, rng, number)
        return Golden(stable, [], [RecommendCase(request, _timeless(native.recommend(request), "generated_at"))])

    return Golden(
        tolerance,
        [_stable(classify, number, [engine]).classify[0] for number in range(CASES)],
        [_stable(recommend, number, [engine, *shaken]).recommend[0] for number in range(CASES)],
    )


def _native_models(run: Run, engine: Engine, parts: Sequence[Part]) -> dict[str, Any]:
    """Return the native models of the parts. A part with an index keeps the bundle's unless all are exact: another
    search would find other candidates, and its recall is in the manifest."""
    exact = all(info.kind == "flat" for info in engine.bundle.manifest.indexes.values())
    return {part.name: part.native(run) for part in parts if part.native and (exact or not part.runtime.indexes)}


def _stable(draw: Callable[[int], Golden], number: int, engines: Sequence[Engine]) -> Golden:
    """A case that every engine answers alike. Raises GoldenError when there is none."""
    for _ in range(DRAWS):
        case = draw(number)
        try:
            for each in engines:
                replay(each, case)
        except GoldenError as error:
            unlike = error
        else:
            return case
    raise unlike


@dataclass(frozen=True)
class _Shaken:
    """A ranker's session whose scores are off by `SHAKE`, one up and one down in turn."""

    session: Any
    sign: int

    def run(self, outputs: list[str], feed: dict[str, Any]) -> list[Any]:
        (scores,) = self.session.run(outputs, feed)
        shakes = np.where(np.arange(len(scores)) % 2, SHAKE, -SHAKE)[:, None] * self.sign
        return [(scores + shakes).astype(np.float32)]


def _timeless(answer: T, field: str) -> T:
    return msgspec.structs.replace(answer, **{field: ""})


def _classify(run: Run, rng: np.random.Generator, number: int) -> ClassifyRequest:
    """A request of the kind `number`: both ends of all ranges; then tracks by id, and raw features by known, unknown
    and no artists, with and without a title and more."""
    if number < 2:
        return ClassifyRequest(
            audio_features=AudioFeatures(*(getattr(each, ("low", "high")[number]) for each in AUDIO))
        )
    names, titles, ids = run.catalogue.artists(), run.catalogue.frame["track_name"], run.catalogue.frame["track_id"]
    row = int(rng.integers(len(names)))
    sound = AudioFeatures(*(float(value) for value in run.catalogue.inputs[row, : len(AUDIO)]))
    kinds = (
        ClassifyRequest(track_id=ids[row]),
        ClassifyRequest(audio_features=sound, artists=names[row]),
        ClassifyRequest(audio_features=sound, artists=["nobody knows this one"], popularity=50, explicit=False),
        ClassifyRequest(audio_features=sound, artists=[*names[row], "nor this one"], duration_ms=200_000),
        ClassifyRequest(audio_features=sound, artists=[]),
        ClassifyRequest(audio_features=sound, artists=["nor this one"], name=titles[row]),
    )
    return kinds[(number - 2) % len(kinds)]


def _recommend(run: Run, rng: np.random.Generator, number: int) -> RecommendRequest:
    """A request of the kind `number`: every cold start, with every limit, exclusions, time range and hour in turn."""
    ids = run.catalogue.frame["track_id"]
    listeners = run.collab.listeners
    ways = list(product(("known", "history", "nobody"), (True, False, None), (10, 1, 100)))
    ranges = get_args(TimeRange)
    kind, current, limit = ways[number % len(ways)]
    some = [ids[int(row)] for row in rng.integers(0, len(ids), 20)]
    return RecommendRequest(
        user_id=listeners[rng.integers(len(listeners))].decode() if kind == "known" else "nobody knows this listener",
        current_track_id=some[0] if current else "no such track" if current is False else None,
        limit=limit,
        exclude_ids=some[1:10] if number % 2 else [],
        time_range=ranges[number % len(ranges)],
        history=some[10 : 11 + number % 9] if kind == "history" else None,
        context=Context(hour=number % 24 if number % 3 else None),
    )
