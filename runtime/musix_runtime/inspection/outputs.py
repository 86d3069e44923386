"""Comparison of the answers of two engines to the same requests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.engine import Engine
from musix_runtime.models.arrays import ABSENT, Floats, Keys, Rows
from musix_runtime.models.features import AUDIO
from musix_runtime.models.genre import confidence_error
from musix_runtime.models.mood import probability_error
from musix_runtime.models.ranker import COMPONENTS
from musix_runtime.schemas import Recommendation, RecommendRequest, RecommendResponse, SimilarRequest

MAX_TRACKS = 256
MAX_LISTENERS = 64
TOP = 10  # length of the compared lists
UNKNOWN_USER = "\0"  # not an id of any bundle: keys are padded with NUL

Measures = dict[str, float]


def compare(first: Engine, second: Engine) -> dict[str, Measures]:
    """Return measures of the differences between the answers of two engines, by part.

    The requests are evenly spaced over the catalogue of the first engine, so they are the same at every call.
    """
    tracks, listeners = _common_tracks(first, second), _common_listeners(first, second)
    return {
        **_classes(first, second, tracks),
        "collab": _collab(first, second, listeners),
        "content": _content(first, second, tracks),
        "ranker": _ranker(first, second),
        "recommend": _recommend(first, second, tracks, listeners),
        "golden": _golden(first, second),
    }


def _common_tracks(first: Engine, second: Engine) -> list[str]:
    """Return at most `MAX_TRACKS` ids of tracks that are in both catalogues."""
    ids = _texts(first.catalog.track_ids.sorted)
    common = [track for track, row in zip(ids, second.catalog.rows(ids), strict=True) if row != ABSENT]
    return _evenly_spaced(common, MAX_TRACKS)


def _common_listeners(first: Engine, second: Engine) -> list[str]:
    """Return at most `MAX_LISTENERS` ids of listeners that are known to both collab parts."""
    ids = _texts(first.retriever.collab.listeners.sorted)
    rows = second.retriever.collab.listeners.find(ids)
    return _evenly_spaced([user for user, row in zip(ids, rows, strict=True) if row != ABSENT], MAX_LISTENERS)


def _texts(keys: NDArray[np.bytes_]) -> list[str]:
    return [bytes(key).decode() for key in keys]


def _evenly_spaced(items: Sequence[str], count: int) -> list[str]:
    """Return at most `count` of the items, evenly spaced."""
    positions = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))
    return [items[i] for i in positions]


def _classes(first: Engine, second: Engine, tracks: list[str]) -> dict[str, Measures]:
    """Compare genres and moods of the common tracks, or of tracks of the first catalogue when there are none."""
    catalog, engines = first.catalog, (first, second)
    rows = catalog.rows(tracks or _evenly_spaced(_texts(catalog.track_ids.sorted), MAX_TRACKS))
    inputs = np.array(catalog.inputs[rows])
    audio = np.ascontiguousarray(inputs[:, : len(AUDIO)])
    artists = [catalog.artists[row].split(";") for row in rows.tolist()]
    titles = catalog.names.take(rows)
    genres = [engine.genre.confidence(inputs, artists, titles) for engine in engines]
    moods = [engine.mood.probabilities(audio) for engine in engines]
    families = [engine.bundle.manifest.families for engine in engines]
    common = [name for name in families[0] if name in families[1]]
    shared = [genre[:, [names.index(name) for name in common]] for genre, names in zip(genres, families, strict=True)]
    best = [np.array(names)[genre.argmax(axis=1)] for genre, names in zip(genres, families, strict=True)]
    return {
        "genre": {
            "tracks": len(rows),
            "largest difference of confidence": _max_abs_diff(*shared),
            "share whose first genre changes": float((best[0] != best[1]).mean()),
        },
        "mood": {
            "tracks": len(rows),
            "largest difference of probability": _max_abs_diff(*moods),
            "share whose first mood changes": float((moods[0].argmax(axis=1) != moods[1].argmax(axis=1)).mean()),
        },
    }


def _collab(first: Engine, second: Engine, listeners: list[str]) -> Measures:
    """Compare the scores of common listeners for the tracks that have factors in both bundles."""
    before, after = (engine.catalog.track_ids.sorted[engine.retriever.collab.rows] for engine in (first, second))
    positions = Keys(after).find(_texts(before))
    common = np.flatnonzero(positions != ABSENT)
    if not listeners or not len(common):
        return {"listeners": 0}
    scores = [(_scores(first, user)[common], _scores(second, user)[positions[common]]) for user in listeners]
    return {
        "listeners": len(listeners),
        "tracks": len(common),
        "largest difference of match": max(_max_abs_diff(a, b) for a, b in scores),
        f"mean overlap of the {TOP} best": _mean(_overlap_at_k(_top(a), _top(b)) for a, b in scores),
    }


def _scores(engine: Engine, listener: str) -> Floats:
    """Return the collab scores of a listener for all tracks with factors."""
    collab = engine.retriever.collab
    factors = collab.listener_factors[collab.listeners.find_one(listener)]
    return collab.scorer(factors).score(collab.rows)


def _top(scores: Floats) -> Rows:
    return np.argsort(-scores, kind="stable")[:TOP]


def _content(first: Engine, second: Engine, tracks: list[str]) -> Measures:
    """Compare the nearest tracks of common tracks."""
    if not tracks:
        return {"tracks": 0}
    before, after = ([_nearest(engine, track) for track in tracks] for engine in (first, second))
    return {"tracks": len(tracks), f"mean overlap of the {TOP} nearest": _mean(map(_overlap_at_k, before, after))}


def _nearest(engine: Engine, track: str) -> list[str]:
    return [similar.id for similar in engine.similar(SimilarRequest(track, TOP)).tracks]


def _ranker(first: Engine, second: Engine) -> Measures:
    """Compare scores of random components, at every hour and without one, for short and long histories."""
    components = np.random.default_rng(0).random((1, 32, len(COMPONENTS)), np.float32)
    contexts = [np.array([[history, hour]], np.float32) for hour in (*range(24), np.nan) for history in (0, 10, 200)]
    before, after = (
        np.array([engine.ranker.scores(components, context) for context in contexts]) for engine in (first, second)
    )
    return {"inputs": before.size, "largest difference of score": _max_abs_diff(before, after)}


def _recommend(first: Engine, second: Engine, tracks: list[str], listeners: list[str]) -> Measures:
    """Compare whole responses: to common listeners, and to an unknown user with and without a current track."""
    cases = {
        "listeners": [RecommendRequest(user_id=user, limit=TOP) for user in listeners],
        "current tracks": [
            RecommendRequest(UNKNOWN_USER, track, TOP) for track in _evenly_spaced(tracks, MAX_LISTENERS)
        ],
        "nobody": [RecommendRequest(UNKNOWN_USER, limit=TOP)],
    }
    measures: Measures = {}
    for name, requests in cases.items():
        lists = [[_recommended(engine, request) for request in requests] for engine in (first, second)]
        measures[name] = len(requests)
        if requests:
            measures[f"{name}, mean overlap of {TOP}"] = _mean(map(_overlap_at_k, *lists))
            measures[f"{name}, share of the same list"] = _mean([*a] == [*b] for a, b in zip(*lists, strict=True))
            measures[f"{name}, largest difference of score"] = max(map(_max_score_diff, *lists))
    return measures


def _golden(first: Engine, second: Engine) -> Measures:
    """Compare the responses to golden requests of the first bundle, except those of tracks and genres that the second
    does not have."""
    cases = first.golden()
    known = [
        case.request
        for case in cases.classify
        if case.request.track_id is None or second.catalog.row(case.request.track_id) is not None
    ]
    classified = [(first.classify(request), second.classify(request)) for request in known]
    asked = [case.request for case in cases.recommend if _genres(case.request) <= set(second.catalog.genres)]
    recommended = [(first.recommend(request), second.recommend(request)) for request in asked]
    shared = [pair for a, b in recommended for pair in _same_tracks(a, b)]
    return {
        "cases": len(classified) + len(recommended),
        "genre, largest difference": max((confidence_error(a, b) for a, b in classified), default=0.0),
        "mood, largest difference": max((probability_error(a, b) for a, b in classified), default=0.0),
        **{
            f"{part}, largest difference": max(
                (abs(a.contributions[part] - b.contributions[part]) for a, b in shared), default=0.0
            )
            for part in ("collab", "content")
        },
        "ranker, largest difference": max((abs(a.score - b.score) for a, b in shared), default=0.0),
        "mean overlap of lists": _mean(_overlap_at_k(_ids(a), _ids(b)) for a, b in recommended),
    }


def _genres(request: RecommendRequest) -> set[str]:
    return set(request.filters.genres or ()) if request.filters else set()


def _ids(response: RecommendResponse) -> list[str]:
    return [track.id for track in response.recommendations]


def _same_tracks(a: RecommendResponse, b: RecommendResponse) -> list[tuple[Recommendation, Recommendation]]:
    second = {track.id: track for track in b.recommendations}
    return [(track, second[track.id]) for track in a.recommendations if track.id in second]


def _recommended(engine: Engine, request: RecommendRequest) -> dict[str, float]:
    """Return the scores of the recommended tracks by id."""
    return {track.id: track.score for track in engine.recommend(request).recommendations}


def _max_score_diff(a: dict[str, float], b: dict[str, float]) -> float:
    return max((abs(a[track] - b[track]) for track in a.keys() & b.keys()), default=0.0)


def _overlap_at_k(a: Any, b: Any) -> float:
    """Return the number of common items, in any order, as a share of the longer list; 1 for two empty lists."""
    longest = max(len(a), len(b))
    return len({*a} & {*b}) / longest if longest else 1.0


def _mean(values: Any) -> float:
    return float(np.mean([*values]))


def _max_abs_diff(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.abs(a - b).max(initial=0))
