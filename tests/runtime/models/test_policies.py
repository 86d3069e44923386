"""The fixed policies `popular` and `blend`."""

import msgspec
import numpy as np
import pytest

from musix_runtime import Engine, RecommendRequest
from musix_runtime.engine import apply_policy
from musix_runtime.models.ranker import COMPONENTS, BlendSession
from musix_runtime.schemas import Context, Filters, RecommendResponse

USER = "listener-001"
CONTEXT = np.array([[3, 20]], np.float32)


@pytest.fixture(scope="module")
def popular(engine: Engine) -> Engine:
    return apply_policy(engine, "popular")


@pytest.fixture(scope="module")
def blend(engine: Engine) -> Engine:
    return apply_policy(engine, "blend")


def history(engine: Engine) -> list[str]:
    collab = engine.retriever.collab
    return [engine.catalog.track_id(row) for row in collab.history(collab.listeners.find_one(USER)).tolist()]


def untimed(answer: RecommendResponse) -> RecommendResponse:
    return msgspec.structs.replace(answer, generated_at="", unknown_ids=[])


@pytest.mark.parametrize(
    "request_",
    [
        RecommendRequest(user_id=USER),
        RecommendRequest(user_id=USER, limit=25, context=Context(hour=20), max_per_artist=1),
        RecommendRequest(user_id=USER, filters=Filters(moods=["happy"], explicit=False)),
    ],
)
def test_popular_is_the_list_of_a_first_visitor_without_what_was_heard(
    engine: Engine, popular: Engine, request_: RecommendRequest
) -> None:
    playing = engine.catalog.track_id(5)
    known = msgspec.structs.replace(request_, current_track_id=playing, history=[engine.catalog.track_id(7)])
    heard = [*history(engine), playing, engine.catalog.track_id(7)]
    visitor = msgspec.structs.replace(request_, user_id="nobody", exclude_ids=heard)
    found = popular.recommend(known)
    assert found.source == "popular"
    assert not {track.id for track in found.recommendations} & set(heard)
    assert untimed(found) == untimed(engine.recommend(visitor))


def test_popular_is_the_same_for_all_in_a_batch(engine: Engine, popular: Engine) -> None:
    requests = [RecommendRequest(user_id=f"listener-{i:03d}", include_heard=True) for i in range(8)]
    first = engine.recommend(RecommendRequest(user_id="nobody"))
    assert {untimed(answer) == untimed(first) for answer in popular.recommend_batch(requests)} == {True}


def test_blend_ranks_by_the_line_of_the_manifest(engine: Engine, blend: Engine) -> None:
    weights = np.array([engine.bundle.manifest.serving.blend[name] for name in COMPONENTS])
    weights /= max(weights.sum(), 1)
    components = np.random.default_rng(1).random((1, 50, 5), np.float32)
    np.testing.assert_allclose(blend.ranker.scores(components, CONTEXT), components @ weights, atol=1e-6)


def test_blend_is_explained_by_its_own_terms(engine: Engine, blend: Engine) -> None:
    weights = np.array([engine.bundle.manifest.serving.blend[name] for name in COMPONENTS])
    weights /= max(weights.sum(), 1)
    components = np.random.default_rng(2).random((1, 50, 5), np.float32)
    base, values = blend.ranker.explain(components, CONTEXT)
    np.testing.assert_allclose(values, components * weights, atol=3e-6)
    assert (base == 0).all()
    np.testing.assert_allclose(values.sum(axis=2), blend.ranker.scores(components, CONTEXT), atol=1e-9)
    for track in blend.recommend(RecommendRequest(user_id=USER)).recommendations:
        assert sum(track.contributions.values()) == pytest.approx(track.score, abs=1e-9)
        assert track.contributions["base"] == 0


def test_blend_with_weights_above_one_stays_below_one() -> None:
    inputs = {"components": np.ones((1, 1, 5), np.float32)}
    (scores,) = BlendSession(np.ones(5, np.float32)).run(["score"], inputs)
    assert scores.tolist() == [[1.0]]


def test_policies_keep_the_bundle(engine: Engine, popular: Engine, blend: Engine) -> None:
    assert popular.bundle is blend.bundle is engine.bundle
    with pytest.raises(ValueError, match="policy: expected popular or blend, found 'random'"):
        apply_policy(engine, "random")
