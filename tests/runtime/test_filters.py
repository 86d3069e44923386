"""Filters: a list has only tracks that pass them, and as many as there are."""

import gc
import weakref
from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from musix_runtime import Engine, Filters, RecommendRequest, SimilarRequest
from musix_runtime.errors import FieldError, RequestError
from musix_runtime.models.catalog import UNKNOWN_DAY
from musix_runtime.models.features import INPUT_NAMES
from musix_runtime.models.mood import MOODS
from musix_runtime.models.resolve import resolve
from musix_runtime.parsing import parse

NO_DATE = "expected a date that exists, YYYY-MM-DD, found "
FUTURE = date(2100, 1, 1)
NEWEST = Filters(released_after=FUTURE)
HEARD = "simulated0000000000002"  # has listeners
USERS: list[dict[str, Any]] = [
    {"user_id": "listener-001"},
    {"user_id": "listener-001", "current_track_id": HEARD},
    {"user_id": "listener-001", "current_track_id": "?"},
    {"user_id": "nobody", "history": [HEARD]},
    {"user_id": "nobody", "current_track_id": HEARD},
    {"user_id": "nobody"},
]
SOURCES = ["hybrid", "hybrid", "collab", "history", "content", "popular"]


@pytest.fixture(scope="module")
def ivf(ivf_bundle: Path) -> Engine:
    return Engine.open(ivf_bundle)


def released(engine: Engine, rows: list[int], day: date = FUTURE) -> Engine:
    """Return an engine whose tracks in `rows` are released on a day in the future."""
    days = engine.catalog.release_days.copy()
    days[rows] = (day - date(1970, 1, 1)).days
    return engine.with_models(catalog=replace(engine.catalog, release_days=days))


def recommend(engine: Engine, **fields: Any) -> list[str]:
    answer = engine.recommend(RecommendRequest(**fields))
    assert [track.position for track in answer.recommendations] == list(range(1, len(answer.recommendations) + 1))
    return [track.id for track in answer.recommendations]


def passing(engine: Engine, filters: Filters) -> set[str]:
    """Return the ids of the tracks that pass, one after another."""
    catalog, names = engine.catalog, engine.bundle.manifest.families
    explicit = catalog.inputs[:, INPUT_NAMES.index("explicit")].tolist()
    found = set()
    for row, (bits, mood) in enumerate(zip(catalog.families.tolist(), catalog.moods.tolist(), strict=True)):
        genres = {name for i, name in enumerate(names) if bits >> i & 1}
        day = date(1970, 1, 1) + timedelta(int(catalog.release_days[row]))
        if (
            (filters.genres is None or genres & set(filters.genres))
            and (filters.moods is None or MOODS[mood] in filters.moods)
            and (filters.explicit is None or explicit[row] == float(filters.explicit))
            and (filters.released_after is None or day >= filters.released_after)
        ):
            found.add(catalog.track_id(row))
    return found


FILTERS = [
    Filters(genres=["jazz-soul"]),
    Filters(genres=["metal", "classical"]),
    Filters(moods=["sad"]),
    Filters(moods=["focus", "happy"], explicit=False),
    Filters(explicit=True),
    Filters(released_after=date(2022, 5, 17)),
    Filters(genres=["rock"], moods=["calm"], explicit=False, released_after=date(2015, 1, 1)),
]


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_list_has_as_many_tracks_as_pass(kind: str, filters: Filters, engine: Engine, ivf: Engine) -> None:
    engine = engine if kind == "flat" else ivf
    allowed = passing(engine, filters)
    assert 0 < len(allowed) < len(engine.catalog)
    collab = engine.retriever.collab
    heard = set(engine.catalog.track_ids.take(collab.history(collab.listeners.find_one("listener-001"))))
    for user, source in zip(USERS, SOURCES, strict=True):
        request = RecommendRequest(**user, limit=50, max_per_artist=100, filters=filters)
        assert engine.recommend(request).source == source
        result = recommend(engine, **user, limit=50, max_per_artist=100, filters=filters)
        told = {user.get("current_track_id"), *user.get("history", ())}
        known = told | (heard if user["user_id"] != "nobody" else set())
        assert set(result) <= allowed - known
        assert len(result) == len(set(result)) == min(50, len(allowed - known))


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_three_tracks_of_the_catalogue_pass(kind: str, engine: Engine, ivf: Engine) -> None:
    engine = engine if kind == "flat" else ivf
    collab = engine.retriever.collab
    heard = collab.history(collab.listeners.find_one("listener-001"))
    unpopular = np.argsort(engine.retriever.popularity, kind="stable")
    rows = unpopular[~np.isin(unpopular, heard)][:3].tolist()
    three = released(engine, rows)
    ids = [engine.catalog.track_id(row) for row in rows]
    many = [f"unknown-{i}" for i in range(200)]
    for user in USERS:
        for limit in (1, 10, 50):
            assert len(recommend(three, **user, limit=limit, filters=NEWEST)) == min(3, limit)
        assert set(recommend(three, **user, filters=NEWEST)) == set(ids)
        assert recommend(three, **user, filters=NEWEST, exclude_ids=ids[:2]) == ids[2:]
        assert recommend(three, **user, filters=NEWEST, exclude_ids=[*many, *ids[1:]]) == ids[:1]
        assert recommend(three, **user, filters=Filters(released_after=FUTURE + timedelta(1))) == []
    three = released(engine, [*rows, int(heard[0])])
    assert set(recommend(three, **USERS[0], filters=NEWEST)) == set(ids)
    assert set(recommend(three, **USERS[0], filters=NEWEST, include_heard=True)) == {
        *ids,
        engine.catalog.track_id(int(heard[0])),
    }


@pytest.mark.parametrize("user", USERS)
def test_score_does_not_depend_on_the_filters(engine: Engine, user: dict[str, Any]) -> None:
    """The tracks that are candidates with filters and without have the same features."""
    features = []
    for filters in (None, Filters(explicit=True)):
        query = resolve([RecommendRequest(**user, filters=filters)], engine.catalog, engine.retriever).query
        found = engine.retriever.features(query, engine.retriever.retrieve(query))
        features.append(dict(zip(found.rows[found.valid].tolist(), found.components[found.valid], strict=True)))
    every, explicit = features
    both = every.keys() & explicit.keys()
    assert len(both) >= 5
    assert explicit.keys() > both
    np.testing.assert_allclose([every[row] for row in both], [explicit[row] for row in both], atol=1e-6)


@pytest.mark.parametrize("filters", FILTERS)
def test_list_begins_like_every_longer_one(engine: Engine, filters: Filters) -> None:
    for user in USERS:
        longest = recommend(engine, **user, limit=50, filters=filters)
        for limit in (1, 10, 25):
            assert recommend(engine, **user, limit=limit, filters=filters) == longest[:limit]


def test_limit_by_artist_holds_among_the_tracks_that_pass(engine: Engine) -> None:
    artists = engine.retriever.artists
    one, two = np.argsort(-np.diff(artists.offsets), kind="stable")[:2].tolist()
    rows = [row for each in (one, two) for row in artists.rows[artists.offsets[each] : artists.offsets[each + 1]]]
    few = released(engine, rows)
    for user in USERS[-2:]:
        for limit, most in ((10, 1), (10, 2), (50, 2)):
            result = few.catalog.rows(recommend(few, **user, limit=limit, max_per_artist=most, filters=NEWEST))
            assert Counter(artists.of(result).tolist()) == dict.fromkeys((one, two), most)


def test_filters_without_fields_have_no_effect(engine: Engine) -> None:
    for user in USERS:
        answers = [engine.recommend(RecommendRequest(**user, filters=filters)) for filters in (None, Filters())]
        plain, empty = (msgspec.json.encode(msgspec.structs.replace(each, generated_at="")) for each in answers)
        assert plain == empty


def test_track_with_an_unknown_value_does_not_pass(engine: Engine) -> None:
    row = engine.catalog.rows([recommend(engine, user_id="nobody", limit=1)[0]])[0]
    days, inputs = engine.catalog.release_days.copy(), engine.catalog.inputs.copy()
    days[row], inputs[row, INPUT_NAMES.index("explicit")] = UNKNOWN_DAY, np.nan
    unknown = engine.with_models(catalog=replace(engine.catalog, release_days=days, inputs=inputs))
    for filters in (Filters(released_after=date.min), Filters(explicit=True), Filters(explicit=False)):
        assert engine.catalog.track_id(row) not in recommend(unknown, user_id="nobody", limit=100, filters=filters)
    mask = unknown.catalog.masks(None, None, None, (date.min - date(1970, 1, 1)).days)
    assert mask.sum() == len(mask) - 1


@pytest.mark.parametrize("filters", FILTERS)
def test_similar_tracks_are_the_nearest_that_pass(engine: Engine, filters: Filters) -> None:
    matrix = engine.retriever.content.index.matrix
    cosines = matrix @ matrix[engine.catalog.rows([HEARD])[0]]
    allowed = engine.catalog.rows(sorted(passing(engine, filters) - {HEARD}))
    tracks = engine.similar(SimilarRequest(HEARD, 10, filters)).tracks
    assert [track.similarity for track in tracks] == pytest.approx(np.sort(cosines[allowed])[::-1][:10], abs=1e-5)
    assert {track.id for track in tracks} <= passing(engine, filters)


def test_unknown_names_are_refused_with_the_known_ones(engine: Engine) -> None:
    filters = Filters(genres=["rock", "polka"], moods=["Calm"])
    for ask in (
        lambda: engine.recommend(RecommendRequest("nobody", filters=filters)),
        lambda: engine.similar(SimilarRequest(HEARD, filters=filters)),
    ):
        with pytest.raises(RequestError) as caught:
            ask()
        assert caught.value.field_errors == [
            FieldError(
                "filters.genres[1]", f"expected one of {', '.join(engine.bundle.manifest.families)}, found 'polka'"
            ),
            FieldError("filters.moods[0]", "expected one of happy, sad, energetic, calm, focus, found 'Calm'"),
        ]


@pytest.mark.parametrize(
    ("filters", "path", "message"),
    [
        ({"genre": ["jazz"]}, "genre", "unknown field; known are genres, moods, explicit, releasedAfter"),
        ({"genres": []}, "genres", "expected array of length >= 1"),
        ({"genres": "jazz"}, "genres", "expected array | null, found str"),
        ({"moods": ["sad", 3]}, "moods[1]", "expected str, found int"),
        ({"explicit": "no"}, "explicit", "expected bool | null, found str"),
        ({"releasedAfter": "2023-02-29"}, "releasedAfter", NO_DATE + "'2023-02-29'"),
        ({"releasedAfter": "2023"}, "releasedAfter", NO_DATE + "'2023'"),
        ({"releasedAfter": "0000-01-01"}, "releasedAfter", NO_DATE + "'0000-01-01'"),
        ({"releasedAfter": 2023}, "releasedAfter", "expected date | null, found int"),
    ],
)  # fmt: skip
def test_wrong_filters_are_refused_with_their_path(filters: dict[str, Any], path: str, message: str) -> None:
    for raw, type_ in (({"userId": "x"}, RecommendRequest), ({"trackId": "x"}, SimilarRequest)):
        with pytest.raises(RequestError) as caught:
            parse(raw | {"filters": filters}, type_)
        assert caught.value.field_errors == [FieldError(f"filters.{path}", message)]


def test_golden_cases_have_filters(engine: Engine) -> None:
    filtered = [case for case in engine.golden().recommend if case.request.filters]
    assert len(filtered) == 16
    assert sum(bool(case.expected.recommendations) for case in filtered) > 12
    for case in filtered:
        assert {track.id for track in case.expected.recommendations} <= passing(engine, case.request.filters)


def test_filters_do_not_keep_a_bundle_open(small_bundle: Path) -> None:
    """What refers to the files is freed without the garbage collector, so that a replaced bundle is closed at once."""
    engine = Engine.open(small_bundle)
    recommend(engine, user_id="nobody", filters=Filters(explicit=False))
    catalog = weakref.ref(engine.catalog)
    gc.disable()
    try:
        del engine
        assert catalog() is None
    finally:
        gc.enable()
