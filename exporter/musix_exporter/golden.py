"""Golden cases: the runtime's engine with the native models in it answers questions that reach every path."""

from dataclasses import replace
from itertools import cycle, islice, product
from typing import Any, TypeVar, get_args

import msgspec
import numpy as np

from musix_runtime.collab import TimeRange
from musix_runtime.engine import Engine
from musix_runtime.features import AUDIO
from musix_runtime.golden import ClassifyCase, Golden, RecommendCase
from musix_runtime.messages import AudioFeatures, ClassifyRequest, Context, RecommendRequest
from musix_trainer.run import Run

T = TypeVar("T", bound=msgspec.Struct)
CASES = 64
# Confidences carry 4 digits and scores 6: what rounding alone may change, and little more.
TOLERANCE = {"genre": 2e-4, "mood": 2e-4, "collab": 1e-5, "content": 1e-5, "ranker": 1e-5}


def cases(run: Run, engine: Engine) -> Golden:
    """Questions, and their answers by PyTorch, XGBoost and LightFM in place of the bundle's graphs and arrays."""
    parts: dict[str, Any] = {"genre": run.genre, "mood": run.mood, "ranker": run.ranker.runtime()}
    if all(search.kind == "flat" for search in engine.bundle.manifest.indexes.values()):
        parts["retriever"] = (
            run.retriever()
        )  # else another search would find other candidates: its recall is in the manifest
    native = replace(engine, **parts)
    rng = np.random.default_rng(0)
    return Golden(
        TOLERANCE,
        [ClassifyCase(each, _timeless(native.classify(each), "timestamp")) for each in _classify(run, rng)],
        [RecommendCase(each, _timeless(native.recommend(each), "generated_at")) for each in _recommend(run, rng)],
    )


def _timeless(answer: T, field: str) -> T:
    return msgspec.structs.replace(answer, **{field: ""})


def _classify(run: Run, rng: np.random.Generator) -> list[ClassifyRequest]:
    """Tracks by id; raw features by known, unknown and no artists, with and without a title and more; both ends of all
    ranges."""
    ends = [AudioFeatures(*(getattr(each, end) for each in AUDIO)) for end in ("low", "high")]
    found = [ClassifyRequest(audio_features=each) for each in ends]
    names, titles, ids = run.catalogue.artists(), run.catalogue.frame["track_name"], run.catalogue.frame["track_id"]
    for i in range(CASES - len(found)):
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
        found.append(kinds[i % len(kinds)])
    return found


def _recommend(run: Run, rng: np.random.Generator) -> list[RecommendRequest]:
    """Every cold start, with every limit, exclusions, time range and hour in turn."""
    ids = run.catalogue.frame["track_id"].to_list()
    listeners = [each.decode() for each in run.collab.listeners]
    ways = product(("known", "history", "nobody"), (True, False, None), (10, 1, 100))
    ranges = cycle(get_args(TimeRange))
    found = []
    for i, (kind, current, limit) in enumerate(islice(cycle(ways), CASES)):
        some = [ids[row] for row in rng.integers(0, len(ids), 20)]
        found.append(
            RecommendRequest(
                user_id=listeners[rng.integers(len(listeners))] if kind == "known" else "nobody knows this listener",
                current_track_id=some[0] if current else "no such track" if current is False else None,
                limit=limit,
                exclude_ids=some[1:10] if i % 2 else [],
                time_range=next(ranges),
                history=some[10 : 11 + i % 9] if kind == "history" else None,
                context=Context(hour=i % 24 if i % 3 else None),
            )
        )
    return found
