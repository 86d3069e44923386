import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musix_runtime import AudioFeatures, ClassifyRequest, Engine, Filters, RecommendRequest, SimilarRequest
from musix_runtime.errors import InputError, RequestError, UnknownTrackError
from musix_runtime.models.content import Content
from musix_runtime.models.features import AUDIO_NAMES
from musix_runtime.models.index import Index
from musix_runtime.models.mood import MOODS
from musix_runtime.models.selection import PAGE
from musix_runtime.schemas import RecommendResponse

TRACK = "simulated0000000000001"
HEARD = "simulated0000000000002"  # has listeners
TRACKS = st.integers(0, 3100).map(lambda i: f"simulated{i:013d}")
REQUESTS = st.builds(
    RecommendRequest,
    user_id=st.sampled_from(["listener-000", "listener-042", "nobody"]),
    current_track_id=st.none() | TRACKS,
    limit=st.integers(1, 100),
    exclude_ids=st.lists(TRACKS, max_size=50),
    time_range=st.sampled_from(["short_term", "medium_term", "long_term"]),
    history=st.none() | st.lists(TRACKS, max_size=20),
)


def ids(answer: RecommendResponse) -> list[str]:
    return [item.id for item in answer.recommendations]


@settings(max_examples=150, deadline=None)
@given(REQUESTS)
def test_recommendation_invariants(engine: Engine, request: RecommendRequest) -> None:
    answer = engine.recommend(request)
    result = engine.catalog.rows(ids(answer)).tolist()
    asked = [*request.exclude_ids, *(request.history or [])]
    forbidden = set(engine.catalog.rows([*asked, request.current_track_id or ""]).tolist())
    assert len(result) == request.limit == len(set(result))
    assert not forbidden & set(result)
    for page in range(0, len(result), PAGE):
        scores = [item.score for item in answer.recommendations[page : page + PAGE]]
        assert scores == sorted(scores, reverse=True)
    for item in answer.recommendations:
        assert 0 <= item.score <= 1
        assert sum(item.contributions.values()) == pytest.approx(item.score, abs=1e-9)
        percents = [int(percent) for percent in re.findall(r"(\d+)%", item.reason)]
        assert sum(percents) == 100
        assert item.mood in MOODS
        assert item.genre
    again = engine.recommend(request)
    assert msgspec.structs.replace(again, generated_at="") == msgspec.structs.replace(answer, generated_at="")


@pytest.mark.parametrize(
    ("method", "request_", "message"),
    [
        ("recommend", RecommendRequest("x", limit=100_000), "limit: expected int <= 100, found 100000"),
        ("recommend", RecommendRequest("x", limit=-1), "limit: expected int >= 1, found -1"),
        ("recommend", RecommendRequest("x", limit=10**30), "limit: expected int <= 100, found 1000"),
        ("recommend", RecommendRequest("x", limit="3"), "limit: expected int, found str"),
        ("recommend", RecommendRequest(b"x"), "userId: expected str, found bytes"),
        ("recommend", RecommendRequest({1}, exclude_ids=None), "userId: expected str, found array; excludeIds: "),
        ("recommend", RecommendRequest("x", history="abc"), "history: expected array | null, found str"),
        ("recommend", RecommendRequest("x", history=[object()]), "$: expected values of JSON's types, found: object"),
        ("recommend", RecommendRequest("x", context=Filters()), "context.genres: unknown field; known are hour"),
        ("recommend", None, "$: expected RecommendRequest, found NoneType"),
        ("recommend", {"user_id": "x"}, "$: expected RecommendRequest, found dict"),
        ("recommend_batch", None, "$: expected a list of RecommendRequest, found NoneType"),
        ("recommend_batch", [RecommendRequest("x"), RecommendRequest("x", limit=0)], "[1].limit: expected int >= 1"),
        ("recall", RecommendRequest("x", limit=0), "limit: expected int >= 1, found 0"),
        ("similar", SimilarRequest(TRACK, limit=-5), "limit: expected int >= 1, found -5"),
        ("similar", RecommendRequest("x"), "$: expected SimilarRequest, found RecommendRequest"),
        ("classify", ClassifyRequest(TRACK, popularity=float("inf")), "popularity: expected float <= 100.0, found inf"),
        ("classify", ClassifyRequest(TRACK, popularity=float("nan")), "popularity: expected float >= 0.0, found nan"),
        ("classify_batch", [ClassifyRequest(TRACK, artists=["x", 3])], "[0].artists[1]: expected str, found int"),
    ],
)
def test_wrong_requests_of_a_program_are_refused(engine: Engine, method: str, request_: Any, message: str) -> None:
    with pytest.raises(RequestError) as refused:
        getattr(engine, method)(request_)
    assert str(refused.value).startswith(message)


def test_numbers_of_numpy_and_generators_are_accepted(engine: Engine) -> None:
    requests = (RecommendRequest("x", limit=np.int64(length)) for length in (1, 2))
    assert [len(answer.recommendations) for answer in engine.recommend_batch(requests)] == [1, 2]


@pytest.mark.parametrize("arguments", [(None,), (3,), (b"x",), ("x", 3)])
def test_a_path_of_another_type_is_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(InputError, match="expected a str or Path, found "):
        Engine.open(*arguments)


def test_engines_are_equal_to_themselves_only(engine: Engine) -> None:
    assert engine == engine
    assert engine != engine.with_models()
    assert len({engine, engine.with_models(), engine}) == 2


@pytest.mark.parametrize(
    ("request_", "source"),
    [
        (RecommendRequest(user_id="listener-001"), "hybrid"),
        (RecommendRequest(user_id="listener-001", current_track_id=TRACK), "hybrid"),
        (RecommendRequest(user_id="listener-001", current_track_id="unknown"), "collab"),
        (RecommendRequest(user_id="nobody", history=[HEARD]), "history"),
        (RecommendRequest(user_id="nobody", history=["unknown"]), "popular"),
        (RecommendRequest(user_id="nobody", current_track_id=TRACK), "content"),
        (RecommendRequest(user_id="nobody", current_track_id="unknown"), "popular"),
        (RecommendRequest(user_id="nobody"), "popular"),
    ],
)
def test_source_of_recommendations(engine: Engine, request_: RecommendRequest, source: str) -> None:
    answer = engine.recommend(request_)
    assert answer.source == source
    assert len(answer.recommendations) == 10


def test_unknown_user_gets_popular_tracks_one_per_artist(engine: Engine) -> None:
    answer = engine.recommend(RecommendRequest(user_id="nobody"))
    rows = engine.catalog.rows(ids(answer))
    assert np.isin(rows, engine.retriever.popular[:100]).all()
    assert len({item.artist for item in answer.recommendations}) == 10


def test_recall_of_the_searches_of_a_request(engine: Engine, ivf_bundle: Path) -> None:
    known, unknown = (RecommendRequest(user_id=user) for user in ("listener-001", "nobody"))
    assert engine.recall(known) == {"collab": 1, "content": 1}
    assert engine.recall(unknown) == {}
    assert 0 < Engine.open(ivf_bundle).recall(known)["collab"] < 1


def test_history_is_not_recommended_to_a_known_listener(engine: Engine) -> None:
    number = engine.retriever.collab.listeners.find_one("listener-003")
    heard = set(engine.retriever.collab.history(number).tolist())
    result = engine.catalog.rows(ids(engine.recommend(RecommendRequest(user_id="listener-003", limit=100))))
    assert heard
    assert not heard & set(result.tolist())


def test_time_ranges_are_nested(engine: Engine) -> None:
    collab = engine.retriever.collab
    busy, idle = int(collab.recent[:, 0].argmax()), int(np.flatnonzero(collab.recent[:, 0] == 0)[0])
    short, medium, long = (collab.count(busy, item) for item in ("short_term", "medium_term", "long_term"))
    assert 0 < short < medium < long == len(collab.history(busy))
    assert collab.count(idle, "short_term") == collab.count(idle, "medium_term")


def test_all_ids_of_a_recording_have_the_same_answers(engine: Engine) -> None:
    other = "simulated0000000003000"  # the second release of track 0
    first = engine.recommend(RecommendRequest(user_id="nobody", current_track_id="simulated0000000000000"))
    for form in (other, f"spotify:track:{other}"):
        again = engine.recommend(RecommendRequest(user_id="nobody", current_track_id=form))
        assert ids(again) == ids(first)
    assert not {"simulated0000000000000", other} & set(ids(first))


def test_excluding_everything_leaves_nothing(engine: Engine) -> None:
    everything = [engine.catalog.track_id(row) for row in range(len(engine.catalog))]
    assert engine.recommend(RecommendRequest(user_id="listener-001", exclude_ids=everything)).recommendations == []


def test_list_is_complete_despite_exclusions(engine: Engine) -> None:
    kept = [engine.catalog.track_id(row) for row in range(0, len(engine.catalog), 60)]
    others = [engine.catalog.track_id(row) for row in range(len(engine.catalog))]
    excluded = sorted(set(others) - set(kept))
    answer = engine.recommend(RecommendRequest(user_id="nobody", exclude_ids=excluded, limit=len(kept)))
    assert sorted(ids(answer)) == sorted(kept)


def test_threads_get_the_same_answers(engine: Engine) -> None:
    requests = [RecommendRequest(user_id=f"listener-{i:03d}") for i in range(40)]
    serial = [engine.recommend(request).recommendations for request in requests]
    with ThreadPoolExecutor(8) as threads:
        assert [item.recommendations for item in threads.map(engine.recommend, requests)] == serial


def test_similar_tracks_are_near_and_not_the_track_itself(engine: Engine) -> None:
    answer = engine.similar(SimilarRequest(track_id=TRACK, limit=20))
    assert len(answer.tracks) == 20
    assert TRACK not in {item.id for item in answer.tracks}
    nearness = [item.similarity for item in answer.tracks]
    assert nearness == sorted(nearness, reverse=True)
    vectors = engine.retriever.content.vectors(np.arange(len(engine.catalog)))
    row = engine.catalog.row(TRACK)
    exact = np.sort(np.delete(vectors @ vectors[row], row))[::-1][:20]
    np.testing.assert_allclose(nearness, exact, atol=2e-6)
    with pytest.raises(UnknownTrackError, match="trackId: expected a track of the catalogue, found 'unknown'"):
        engine.similar(SimilarRequest(track_id="unknown"))


def test_similarity_is_that_of_the_vectors_whatever_the_file_of_the_index_has(engine: Engine) -> None:
    content = engine.retriever.content
    vectors = content.vectors(np.arange(len(engine.catalog)))
    row, liar = engine.catalog.row(TRACK), 1234
    told = vectors.copy()
    told[liar] = 1e6 * vectors[row]
    searched = faiss.IndexFlatIP(told.shape[1])
    searched.add(told)
    liars = engine.with_models(content=Content(Index(content.index.matrix, searched)))
    shown = liars.similar(SimilarRequest(track_id=TRACK, limit=20)).tracks
    found = [engine.catalog.row(track.id) for track in shown]
    assert found[-1] == liar
    np.testing.assert_allclose([track.similarity for track in shown], vectors[found] @ vectors[row], atol=2e-6)


def test_a_batch_is_classified_like_its_tracks(engine: Engine) -> None:
    requests = [
        ClassifyRequest(track_id=f"simulated{i:013d}", artists=["Simulated Artist 0001"][: i % 2]) for i in range(50)
    ]
    for one, many in zip([engine.classify(item) for item in requests], engine.classify_batch(requests), strict=True):
        assert one.genres[0].name == many.genres[0].name
        assert one.genres[0].confidence == pytest.approx(many.genres[0].confidence, abs=2e-4)
        assert sum(one.mood.probabilities.values()) == pytest.approx(1, abs=5e-4)


def test_given_features_take_precedence_over_the_catalogue(engine: Engine) -> None:
    row = engine.catalog.row(TRACK)
    raw = dict(zip(AUDIO_NAMES, engine.catalog.inputs[row].tolist(), strict=False))
    alone = engine.classify(ClassifyRequest(audio_features=AudioFeatures(**raw)))
    assert len(alone.genres) == 5
    louder = AudioFeatures(**(raw | {"valence": 0.99, "energy": 0.99}))
    result = engine.classify(ClassifyRequest(track_id=TRACK, audio_features=louder))
    assert result.mood.probabilities["happy"] > alone.mood.probabilities["happy"]


def test_opening_maps_the_matrices(demo_bundle: Path, engine: Engine) -> None:
    matrix = engine.retriever.collab.listener_factors
    (address, _) = matrix.__array_interface__["data"]
    ranges = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "listener_factors" in line]
    starts = [tuple(int(item, 16) for item in fields[0].split("-")) for fields in ranges]
    assert any(start <= address < end for start, end in starts)
