from dataclasses import replace

import msgspec
import numpy as np
import pytest

from musix_runtime import Engine
from musix_runtime.models.arrays import ABSENT, Floats, RaggedRows, Rows
from musix_runtime.models.artists import MAX_TRACKS, Artists
from musix_runtime.models.candidate_features import CandidateFeatures, prefilter_by_blend
from musix_runtime.models.exclusion import ExclusionFilter
from musix_runtime.models.index import Index
from musix_runtime.models.ranker import COMPONENTS
from musix_runtime.models.retrieval import ANONYMOUS, Candidates, Retriever, User
from musix_runtime.models.selection import PAGE

NONE: Rows = np.empty(0, np.int64)


def candidates(retriever: Retriever, user: User, content: Floats | None, excluded: Rows, limit: int) -> list[int]:
    result = retriever.retrieve(retriever.query(user, content, excluded, limit))
    return result.rows[result.valid].tolist()


def features(retriever: Retriever, user: User, content: Floats | None, rows: Rows) -> CandidateFeatures:
    query = retriever.query(user, content, NONE, 1)
    return retriever.features(query, Candidates(rows[None], np.ones((1, len(rows)), bool), np.ones(1, np.float32)))


def test_candidates_are_the_nearest_by_collab_and_content_and_those_of_artists(engine: Engine) -> None:
    """Compare with the products of all vectors: the indexes of the demo are exact."""
    retriever = engine.retriever
    collab, content = retriever.collab, retriever.content.index.matrix
    for number in range(0, 600, 40):
        heard = collab.history(number)
        user, query = User(collab.listener_factors[number], heard, heard), retriever.content.profile(heard)
        by_factors = collab.index.matrix @ collab.queries(user.factors[None])[0]
        every = (collab.rows[np.argsort(-by_factors)].tolist(), np.argsort(-(content @ query)).tolist())
        expected = set[int]()
        for ranked in every:
            expected |= set([row for row in ranked if row not in set(heard.tolist())][:50])
        artists = retriever.artists.affinities(RaggedRows.of([heard]))
        of_artists = set(retriever.artists.candidates(artists, np.array([100]))[0].tolist()) - set(heard.tolist())
        assert 50 < len(of_artists) < 150
        expected |= of_artists
        assert candidates(retriever, user, query, heard, 10) == sorted(expected)


def test_unknown_user_gets_popular_tracks_except_excluded_ones(engine: Engine) -> None:
    popular = engine.retriever.popular
    result = candidates(engine.retriever, ANONYMOUS, None, popular[:3].astype(np.int64), 10)
    assert result == sorted(popular[3 : 3 + 2 * engine.retriever.serving.candidates].tolist())


def test_excluded_tracks_are_replaced_by_others(engine: Engine) -> None:
    query = engine.retriever.content.vectors(np.array([5]))[0]
    ranked = np.argsort(-(engine.retriever.content.index.matrix @ query), kind="stable")
    for count in (0, 10, 100, 300, 1000, 2900):  # more than are found beside those asked for
        result = candidates(engine.retriever, ANONYMOUS, query, ranked[:count], 10)
        assert result == sorted(ranked[count : count + 50].tolist())


def test_unknown_excluded_row_has_no_effect(engine: Engine) -> None:
    query = engine.retriever.content.vectors(np.array([5]))[0]
    odd = np.array([-(10**12), -1, 10**12])
    result = [candidates(engine.retriever, ANONYMOUS, query, rows, 10) for rows in (NONE, odd)]
    assert result[0] == result[1]


def test_filter_allows_tracks_that_are_not_excluded() -> None:
    rng = np.random.default_rng(0)
    for sizes in ([0, 0], [3, 0, 40], [500, 1], [30]):
        parts = [rng.integers(0, 1000, size) for size in sizes]
        rows, requests = rng.integers(0, 1000, (len(sizes), 200)), np.arange(len(sizes))
        allowed = ExclusionFilter(RaggedRows.of(parts), 1000).allows(requests, rows)
        assert allowed.tolist() == [(~np.isin(row, part)).tolist() for row, part in zip(rows, parts, strict=True)]


def test_small_catalogue_is_filled_up_with_popular_tracks(engine: Engine) -> None:
    retriever = engine.retriever
    free = np.arange(100, 140)
    excluded = np.setdiff1d(np.arange(len(engine.catalog)), free)
    result = candidates(retriever, ANONYMOUS, None, excluded, 20)
    popular = free[np.argsort(-retriever.popularity[free], kind="stable")]
    wanted = set(np.intersect1d(free, retriever.popular).tolist()) | set(popular[:20].tolist())
    assert set(result) <= wanted
    assert len(result) >= 20


def small_artists() -> Artists:
    """Return three artists: 0 has rows 0 to 2 in the order 2, 0, 1, artist 1 has rows 3 and 4, artist 2 all others. 0
    and 1 are heard together."""
    track_artists = np.full(3000, 2, np.int32)
    track_artists[:5] = [0, 0, 0, 1, 1]
    rows = np.array([2, 0, 1, 3, 4, *range(5, 3000)], np.int32)
    offsets = np.array([0, 3, 5, 3000])
    ranks = np.empty(3000, np.int32)
    ranks[rows] = np.arange(3000) - offsets[track_artists[rows]]
    similarities = np.array([[0.5], [0.5], [0]], np.float32)
    return Artists(track_artists, ranks, offsets, rows, np.array([[1], [0], [2]], np.int32), similarities)


def test_preference_is_of_own_and_similar_artists_and_of_families(engine: Engine) -> None:
    families = engine.retriever.families.copy()
    families[:5] = [1, 1, 2, 2, 4]
    retriever = replace(engine.retriever, artists=small_artists(), families=families)

    def preference(*profile: int, current: int = ABSENT) -> list[float]:
        user = replace(ANONYMOUS, profile_items=np.array(profile, np.int64), current=current)
        result = features(retriever, user, None, np.arange(5))
        return result.components[0, :, COMPONENTS.index("preference")].tolist()

    second, third = 1 - 1 / np.sqrt(2), 1 - 1 / np.sqrt(3)  # the first of an artist has 0
    of_family = [1 - second * 0.8, 1 - third * 0.8, 1]
    assert preference(0) == pytest.approx([*of_family, 0.15, 0.15 / np.sqrt(2)])
    mixed = [np.sqrt(1 / 2), 0.15 / 2]  # half of the profile is by each of two artists
    first = 1 - (1 - mixed[0]) * (1 - mixed[1])
    assert preference(0, 4)[2] == pytest.approx(first)
    assert preference() == [0] * 5
    playing = preference(0, current=4)  # which counts as five tracks
    assert playing[4] > preference(0, 4)[4] > preference(0)[4]
    assert playing[0] < preference(0)[0]


def test_only_the_artists_that_were_heard_most_have_similar_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the work for a long history is bounded."""
    artists = small_artists()
    monkeypatch.setattr("musix_runtime.models.artists.MAX_EXPANDED", 1)
    profiles = RaggedRows.of([np.array([0, 1, 3]), np.array([0, 3, 4]), np.array([3])])
    found = artists.affinities(profiles)
    assert found.keys.tolist() == [0, 1, 3, 4, 6, 7]  # artists 0 and 1 of each request
    assert found.similar.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 0, 0.5, 0])


def test_candidates_are_the_popular_tracks_of_the_artists_in_proportion() -> None:
    artists = small_artists()
    profiles = RaggedRows.of([np.array([0]), NONE, np.array([0, 3, 3, 3])])
    rows = artists.candidates(artists.affinities(profiles), np.array([2, 2, 4]))
    assert [row[row < 3000].tolist() for row in rows] == [[2, 0, 1], [], [2, 0, 1, 3, 4]]
    alone = artists.candidates(artists.affinities(RaggedRows.of([np.array([0, 3, 3, 3])])), np.array([4]))
    assert alone[0].tolist() == [2, 0, 1, 3, 4]
    many = artists.candidates(artists.affinities(RaggedRows.of([np.arange(5, 10)])), np.array([1000]))
    assert many[0].tolist() == list(range(5, 5 + MAX_TRACKS + 5))  # as many more as were heard


def test_current_track_is_half_of_the_content_query(engine: Engine) -> None:
    retriever = engine.retriever
    user = replace(ANONYMOUS, profile_items=np.array([1, 2, 3]), current=9)
    half = retriever.content.profile(user.profile_items) + retriever.content.vectors(np.array([9]))[0]
    np.testing.assert_allclose(retriever.content_query(user), half / np.linalg.norm(half), rtol=1e-5)
    alone = retriever.content_query(replace(ANONYMOUS, current=9))
    np.testing.assert_allclose(alone, retriever.content.vectors(np.array([9]))[0], rtol=1e-5)
    assert retriever.content_query(ANONYMOUS) is None


def test_first_component_is_popularity_for_an_unknown_user(engine: Engine) -> None:
    retriever, rows = engine.retriever, np.arange(50)
    vectors = retriever.content.vectors(rows)
    nothing = features(retriever, ANONYMOUS, None, rows)
    assert nothing.components[0, :, 0].tolist() == retriever.popularity[:50].tolist()
    assert not nothing.components[0, :, 1].any()
    near = features(retriever, ANONYMOUS, vectors[7], rows)
    assert not near.components[0, :, 0].any()
    np.testing.assert_allclose(near.components[0, :, 1], (vectors @ vectors[7]).clip(0, 1), atol=1e-6)
    np.testing.assert_array_equal(near.vectors[0], vectors)


def test_user_without_common_tracks(engine: Engine) -> None:
    """Return a catalogue without plays."""
    collab = engine.retriever.collab
    nothing = replace(collab, rows=collab.rows[:0], index=Index(collab.index.matrix[:0]), tastes=collab.tastes[:0])
    retriever = replace(engine.retriever, collab=nothing)
    heard = np.array([1, 2, 3])
    query = retriever.query(User(collab.listener_factors[0], heard, heard[:0]), None, heard, 10)
    result = retriever.retrieve(query)
    assert result.valid.sum() == 10
    assert not retriever.features(query, result).components[..., 0].any()


def test_prefilter_keeps_the_best_by_blend_in_order() -> None:
    rng = np.random.default_rng(1)
    weights = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625], np.float32)
    for n in range(1, 40):
        components = rng.integers(0, 5, (3, n, 5)).astype(np.float32) / 4  # with ties
        valid, rows = rng.random((3, n)) < 0.8, rng.integers(0, 999, (3, n))
        vectors = rng.random((3, n, 28), np.float32)
        sizes = rng.integers(1, 12, 3)
        artists, most = rng.integers(0, 4, (3, n)), rng.integers(1, 4, 3)
        features = CandidateFeatures(rows, valid, vectors, components, artists, most)
        result = prefilter_by_blend(features, weights, sizes)
        for i in range(3):
            blend = components[i] @ weights
            order = sorted(np.flatnonzero(valid[i]).tolist(), key=lambda j: (-blend[j], j))
            allowed = most[i] * -(-sizes[i] // PAGE)
            order = [j for k, j in enumerate(order) if sum(artists[i, order[:k]] == artists[i, j]) < allowed]
            kept = sorted(order[: sizes[i]])
            assert result.rows[i, result.valid[i]].tolist() == rows[i, kept].tolist()
            np.testing.assert_array_equal(result.vectors[i, result.valid[i]], vectors[i, kept])
            np.testing.assert_array_equal(result.components[i, result.valid[i]], components[i, kept])


def test_serving_settings_limit_the_candidates(engine: Engine) -> None:
    serving = msgspec.structs.replace(engine.retriever.serving, candidates=3)
    retriever = replace(engine.retriever, serving=serving)
    query = retriever.content.vectors(np.array([5]))[0]
    assert len(candidates(retriever, ANONYMOUS, query, NONE, 1)) == 3
    assert len(candidates(retriever, ANONYMOUS, query, NONE, 7)) == 7
