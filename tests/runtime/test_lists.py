"""Lists as people see them: limits by artist, pages, replays, and the heard tracks that speak for a proposal."""

from collections import Counter

import numpy as np
import pytest

from musix_runtime import Engine
from musix_runtime.models import because
from musix_runtime.models.arrays import ABSENT, RaggedRows
from musix_runtime.models.ranker import COMPONENTS
from musix_runtime.schemas import Recommendation, RecommendRequest

USERS = [f"listener-{i:03}" for i in range(1, 30)]


def recommend(engine: Engine, user: str = "nobody", **fields: object) -> list[Recommendation]:
    return engine.recommend(RecommendRequest(user, **fields)).recommendations  # type: ignore[arg-type]


def ids(tracks: list[Recommendation]) -> list[str]:
    return [track.id for track in tracks]


def most_of_one_artist(engine: Engine, tracks: list[Recommendation]) -> int:
    rows = engine.catalog.rows(ids(tracks))
    return max(Counter(engine.retriever.artists.of(rows).tolist()).values())


@pytest.mark.parametrize("user", USERS)
def test_each_ten_has_three_tracks_of_an_artist_by_default(engine: Engine, user: str) -> None:
    tracks = recommend(engine, user, limit=40)
    for page in (1, 2, 3, 4):
        assert most_of_one_artist(engine, tracks[: 10 * page]) <= 3 * page
    assert most_of_one_artist(engine, recommend(engine, user, max_per_artist=1)) == 1


@pytest.mark.parametrize("user", USERS[:10])
def test_list_begins_like_every_longer_one(engine: Engine, user: str) -> None:
    longest = ids(recommend(engine, user, limit=50))
    for limit in (1, 5, 10, 11, 25):
        assert ids(recommend(engine, user, limit=limit)) == longest[:limit]


def test_profile_of_one_artist_has_no_limit(engine: Engine) -> None:
    retriever = engine.retriever
    one, two, none = np.array([5, 5]), np.array([5, 9]), np.array([], np.int64)
    assert len(set(retriever.artists.of(two).tolist())) == 2
    profiles = RaggedRows.of([one, two, none, one])
    affinities = retriever.artist_affinities(profiles, np.full(4, ABSENT))
    assert retriever.max_per_artist([None, None, None, 2], affinities).tolist() == [10, 3, 3, 2]


def test_heard_tracks_only_on_request(engine: Engine) -> None:
    user = USERS[0]
    collab = engine.retriever.collab
    heard = set(engine.catalog.track_ids.take(collab.history(collab.listeners.find_one(user))))
    assert not heard & set(ids(recommend(engine, user, limit=50)))
    assert heard & set(ids(recommend(engine, user, limit=50, include_heard=True)))


def test_unknown_ids_are_listed(engine: Engine) -> None:
    request = RecommendRequest("nobody", current_track_id="?", history=["!", engine.catalog.track_id(5), "-"])
    assert engine.recommend(request).unknown_ids == ["?", "!", "-"]
    assert engine.recommend(RecommendRequest("nobody")).unknown_ids == []
    many = RecommendRequest("nobody", history=[f"?{i % 200}" for i in range(10_000)])
    assert engine.recommend(many).unknown_ids == [f"?{i}" for i in range(100)]


def test_proposals_name_the_heard_tracks_that_speak_for_them(engine: Engine) -> None:
    user = USERS[0]
    collab = engine.retriever.collab
    heard = set(engine.catalog.track_ids.take(collab.history(collab.listeners.find_one(user))))
    for track in recommend(engine, user):
        assert {cause.id for cause in track.because} <= heard
        shares = [cause.share for cause in track.because]
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1.0002


def test_the_only_evidence_is_the_whole_cause(engine: Engine) -> None:
    only = engine.catalog.track_id(5)
    for fields in ({"current_track_id": only}, {"history": [only]}):
        (track, *_) = recommend(engine, **fields)
        assert [(cause.id, cause.share) for cause in track.because] == [(only, pytest.approx(1, abs=1e-3))]
    assert all(track.because == [] for track in recommend(engine))


def test_preference_for_an_artist_is_caused_by_its_own_tracks(engine: Engine) -> None:
    """Two artists are heard; their other tracks are proposed for preference alone."""
    artists = engine.retriever.artists
    first, second = (
        artists.rows[artists.offsets[artist] :].tolist()
        for artist in np.argsort(-np.diff(artists.offsets), kind="stable")[:2]
    )
    proposed = np.array([[first[1], second[1]]])
    values = np.zeros((1, 2, 5))
    values[..., COMPONENTS.index("preference")] = 0.5
    profile = RaggedRows.of([np.array([first[0], second[0]])])
    found = because.causes(engine.retriever, profile, np.array([ABSENT]), proposed, values)
    assert found.rows[0, :, 0].tolist() == [first[0], second[0]]
    assert (found.shares[0, :, 0] > 0.7).all()
