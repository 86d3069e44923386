"""Diff: two bundles side by side, by what their manifests say and by what their engines answer to the same inputs."""

from collections.abc import Iterator, Sequence
from difflib import unified_diff
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from musix_runtime.bundle.manifest import Manifest
from musix_runtime.engine import Engine
from musix_runtime.formatting import shown
from musix_runtime.inspection import drift
from musix_runtime.models.arrays import ABSENT, Floats, Keys, Rows
from musix_runtime.models.features import AUDIO
from musix_runtime.models.genre import confidence_error
from musix_runtime.models.mood import probability_error
from musix_runtime.models.ranker import COMPONENTS
from musix_runtime.schemas import Recommendation, RecommendRequest, RecommendResponse, SimilarRequest

TRACKS = 256
LISTENERS = 64
TOP = 10
STRANGER = "\0"  # no listener's id, as keys are padded with it

Pair = tuple[Any, Any]  # before and after; None where one of the two has none
Measures = dict[str, float]


class Diff(msgspec.Struct, frozen=True):
    """What differs between two bundles; a section without entries is equal. `outputs` has every measure, also zeros;
    `drift` the audio features whose distribution moved, None where the catalogues are too small to tell."""

    equal: bool
    versions: dict[str, Pair]
    recipe: list[str]
    data: dict[str, Pair]
    drift: dict[str, float] | None
    labels: dict[str, Pair]
    counts: dict[str, Pair]
    bytes: dict[str, Pair]
    quality: dict[str, Pair]
    outputs: dict[str, Measures]

    def lines(self) -> Iterator[str]:
        """The difference as lines for a terminal."""
        if self.equal:
            yield "the same bundle, byte for byte"
        for name in ("versions", "recipe", "data", "labels", "counts", "bytes", "quality"):
            section = getattr(self, name)
            yield f"{name}" if section else f"{name}: equal"
            if isinstance(section, dict):
                yield from (f"  {key:<52} {shown(a)} -> {shown(b)}" for key, (a, b) in section.items())
            else:
                yield from (f"  {line}" for line in section)
        if self.drift is None:
            yield f"drift: expected at least {drift.SAMPLES} tracks in both to tell, found fewer"
        else:
            yield "drift" if self.drift else "drift: no audio feature moved"
            yield from (f"  {name:<52} KL {shown(kl)}, above {drift.BOUNDS['KL']}" for name, kl in self.drift.items())
        yield "outputs"
        for part, measures in self.outputs.items():
            yield from (f"  {part + ': ' + name:<52} {shown(value)}" for name, value in measures.items())


def diff(first: Engine, second: Engine) -> Diff:
    """Compare two open bundles, on inputs evenly spaced over the first one's catalogue: the same at every call."""
    a, b = first.bundle.manifest, second.bundle.manifest
    return Diff(
        equal=first.bundle.digest == second.bundle.digest,
        versions=_versions(first, second),
        recipe=_changed_lines(a.provenance.recipe, b.provenance.recipe),
        data=_pairs(_data(a), _data(b)),
        drift=drift.drifted(first.catalog.inputs, second.catalog.inputs),
        labels=_labels(a, b),
        counts=_pairs(a.counts, b.counts),
        bytes=_pairs(a.part_bytes(), b.part_bytes()),
        quality=_pairs(a.metrics(), b.metrics()),
        outputs=_outputs(first, second),
    )


def _pairs(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Pair]:
    """Keys whose values differ, in the order of both."""
    both = ((key, (before.get(key), after.get(key))) for key in {**before, **after})
    return {key: (was, now) for key, (was, now) in both if was != now}


def _versions(first: Engine, second: Engine) -> dict[str, Pair]:
    return _pairs(*(_version(each.bundle.manifest) | {"digest": each.bundle.digest} for each in (first, second)))


def _version(manifest: Manifest) -> dict[str, Any]:
    origin = manifest.provenance
    own = {"name": manifest.name, "version": manifest.version, "git commit": origin.git_commit}
    return own | {f"package {name}": version for name, version in origin.packages.items()}


def _changed_lines(before: str, after: str) -> list[str]:
    lines = list(unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))
    return [line for line in lines[2:] if not line.startswith("@@")]


def _data(manifest: Manifest) -> dict[str, Any]:
    return {
        f"{name}: {key}": value
        for name, source in manifest.provenance.sources.items()
        for key, value in {**source.notes, "rows": source.rows, "SHA-256": source.sha256}.items()
    }


def _labels(a: Manifest, b: Manifest) -> dict[str, Pair]:
    names = {**dict.fromkeys(a.families), **dict.fromkeys(b.families)}
    places = [{name: i for i, name in enumerate(each.families)} for each in (a, b)]
    return _pairs(*({f"family {name}": at[name] for name in names if name in at} for at in places))


def _outputs(first: Engine, second: Engine) -> dict[str, Measures]:
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
    """Ids of tracks that both catalogues have."""
    ids = _texts(first.catalog.track_ids.sorted)
    return _spread([each for each, row in zip(ids, second.catalog.rows(ids), strict=True) if row != ABSENT], TRACKS)


def _common_listeners(first: Engine, second: Engine) -> list[str]:
    ids, known = _texts(first.retriever.collab.listeners.sorted), second.retriever.collab.listeners
    return _spread([each for each, row in zip(ids, known.find(ids), strict=True) if row != ABSENT], LISTENERS)


def _texts(keys: NDArray[np.bytes_]) -> list[str]:
    return [bytes(each).decode() for each in keys]


def _spread(items: Sequence[str], count: int) -> list[str]:
    """At most `count` of the items, evenly spaced."""
    places = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))
    return [items[i] for i in places]


def _classes(first: Engine, second: Engine, tracks: list[str]) -> dict[str, Measures]:
    """Genre and mood of the same inputs: the first catalogue's, of common tracks when there are any."""
    catalog = first.catalog
    rows = catalog.rows(tracks or _spread(_texts(catalog.track_ids.sorted), TRACKS))
    inputs = np.array(catalog.inputs[rows])
    audio = np.ascontiguousarray(inputs[:, : len(AUDIO)])
    artists = [catalog.artists[row].split(";") for row in rows.tolist()]
    titles = catalog.names.take(rows)
    genres = [each.genre.confidence(inputs, artists, titles) for each in (first, second)]
    moods = [each.mood.probabilities(audio) for each in (first, second)]
    families = [each.bundle.manifest.families for each in (first, second)]
    common = [name for name in families[0] if name in families[1]]
    shared = [found[:, [own.index(name) for name in common]] for found, own in zip(genres, families, strict=True)]
    best = [np.array(own)[found.argmax(axis=1)] for found, own in zip(genres, families, strict=True)]
    return {
        "genre": {
            "tracks": len(rows),
            "largest difference of confidence": _largest(*shared),
            "share whose first genre changes": float((best[0] != best[1]).mean()),
        },
        "mood": {
            "tracks": len(rows),
            "largest difference of probability": _largest(*moods),
            "share whose first mood changes": float((moods[0].argmax(axis=1) != moods[1].argmax(axis=1)).mean()),
        },
    }


def _collab(first: Engine, second: Engine, listeners: list[str]) -> Measures:
    """Matches of common listeners with the tracks that both have factors for."""
    before, after = (each.catalog.track_ids.sorted[each.retriever.collab.rows] for each in (first, second))
    places = Keys(after).find(_texts(before))
    here = np.flatnonzero(places != ABSENT)
    if not listeners or not len(here):
        return {"listeners": 0}
    pairs = [(_matches(first, each)[here], _matches(second, each)[places[here]]) for each in listeners]
    return {
        "listeners": len(listeners),
        "tracks": len(here),
        "largest difference of match": max(_largest(*each) for each in pairs),
        f"mean overlap of the {TOP} best": _mean(_overlap(_best(a), _best(b)) for a, b in pairs),
    }


def _matches(engine: Engine, listener: str) -> Floats:
    collab = engine.retriever.collab
    factors = collab.listener_factors[collab.listeners.find_one(listener)]
    return collab.scorer(factors).score(collab.rows)


def _best(matches: Floats) -> Rows:
    return np.argsort(-matches, kind="stable")[:TOP]


def _content(first: Engine, second: Engine, tracks: list[str]) -> Measures:
    if not tracks:
        return {"tracks": 0}
    requests = [SimilarRequest(each, TOP) for each in tracks]
    lists = [[[each.id for each in engine.similar(ask).tracks] for ask in requests] for engine in (first, second)]
    return {"tracks": len(tracks), f"mean overlap of the {TOP} nearest": _mean(map(_overlap, *lists))}


def _ranker(first: Engine, second: Engine) -> Measures:
    """Scores of drawn components, at every hour and at none, of listeners with short and long histories."""
    components = np.random.default_rng(0).random((1, 32, len(COMPONENTS)), np.float32)
    contexts = [np.array([[heard, hour]], np.float32) for hour in (*range(24), np.nan) for heard in (0, 10, 200)]
    found = [np.array([each.ranker.scores(components, context) for context in contexts]) for each in (first, second)]
    return {"inputs": found[0].size, "largest difference of score": _largest(*found)}


def _recommend(first: Engine, second: Engine, tracks: list[str], listeners: list[str]) -> Measures:
    """Whole answers: to common listeners, to somebody unknown who hears a common track, to nobody."""
    cases = {
        "listeners": [RecommendRequest(user_id=each, limit=TOP) for each in listeners],
        "current tracks": [RecommendRequest(STRANGER, each, TOP) for each in _spread(tracks, LISTENERS)],
        "nobody": [RecommendRequest(STRANGER, limit=TOP)],
    }
    measures: Measures = {}
    for name, requests in cases.items():
        lists = [[_scores(engine, request) for request in requests] for engine in (first, second)]
        measures[name] = len(requests)
        if requests:
            measures[f"{name}, mean overlap of {TOP}"] = _mean(map(_overlap, *lists))
            measures[f"{name}, share of the same list"] = _mean([*a] == [*b] for a, b in zip(*lists, strict=True))
            measures[f"{name}, largest difference of score"] = max(map(_apart, *lists))
    return measures


def _golden(first: Engine, second: Engine) -> Measures:
    """Answers of both to the first one's golden questions, but for tracks that the second does not have; by part."""
    cases = first.golden()
    known = [
        c.request
        for c in cases.classify
        if c.request.track_id is None or second.catalog.row(c.request.track_id) is not None
    ]
    classified = [(first.classify(each), second.classify(each)) for each in known]
    recommended = [(first.recommend(c.request), second.recommend(c.request)) for c in cases.recommend]
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
        "mean overlap of lists": _mean(_overlap(_ids(a), _ids(b)) for a, b in recommended),
    }


def _ids(answer: RecommendResponse) -> list[str]:
    return [each.id for each in answer.recommendations]


def _same_tracks(a: RecommendResponse, b: RecommendResponse) -> list[tuple[Recommendation, Recommendation]]:
    theirs = {each.id: each for each in b.recommendations}
    return [(each, theirs[each.id]) for each in a.recommendations if each.id in theirs]


def _scores(engine: Engine, request: RecommendRequest) -> dict[str, float]:
    return {each.id: each.score for each in engine.recommend(request).recommendations}


def _apart(a: dict[str, float], b: dict[str, float]) -> float:
    return max((abs(a[each] - b[each]) for each in a.keys() & b.keys()), default=0.0)


def _overlap(a: Any, b: Any) -> float:
    """Share of the longer list that both have; order does not count."""
    return len({*a} & {*b}) / max(len(a), len(b), 1)


def _mean(values: Any) -> float:
    return float(np.mean([*values]))


def _largest(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.abs(a - b).max(initial=0))
