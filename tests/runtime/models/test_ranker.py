from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from musix_runtime import Engine
from musix_runtime.models.candidate_features import CandidateFeatures
from musix_runtime.models.ranker import DIVERSITY, Ranker

CONTEXT = np.array([[10, np.nan]], np.float32)


class Formula:
    """A session whose score is a known formula of the components and the length of the history."""

    def run(self, outputs: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        a, b, c, d, e = np.moveaxis(feed["components"], -1, 0)
        heard = feed["context"][:, :1]
        return [(0.1 + 0.3 * a * b + 0.2 * c + 0.001 * heard * d + 0.3 * e).reshape(-1, 1)]


def features(components: np.ndarray, vectors: np.ndarray) -> CandidateFeatures:
    rows = np.broadcast_to(np.arange(components.shape[1]), components.shape[:2])
    valid, unlimited = np.ones(rows.shape, bool), np.full(len(rows), rows.shape[1])
    return CandidateFeatures(rows, valid, vectors, components, rows, unlimited)


def test_context_of_a_request_applies_to_its_candidates() -> None:
    components = np.full((2, 3, 5), 0.5, np.float32)
    context = np.array([[0, np.nan], [100, np.nan]], np.float32)
    scores = Ranker(Formula()).scores(components, context)
    np.testing.assert_allclose(scores, [[0.425] * 3, [0.475] * 3], atol=1e-6)


@given(npst.arrays(np.float32, (2, 7, 5), elements=st.floats(0, 1, width=32)))
@settings(deadline=None)
def test_base_and_shapley_values_sum_to_the_score(engine: Engine, components: np.ndarray) -> None:
    context = np.repeat(CONTEXT, 2, axis=0)
    base, values = engine.ranker.explain(components, context)
    np.testing.assert_allclose(base + values.sum(axis=2), engine.ranker.scores(components, context), atol=1.1e-6)


def test_scores_do_not_depend_on_the_batch(engine: Engine) -> None:
    components = np.random.default_rng(1).random((4, 25, 5), np.float32)
    context = np.array([[3, np.nan], [90, 1], [0, 12], [10, 23]], np.float32)
    whole = engine.ranker.scores(components, context)
    for i in range(4):
        assert engine.ranker.scores(components[i : i + 1], context[i : i + 1]).tolist() == [whole[i].tolist()]


def test_similar_tracks_are_not_selected_in_succession() -> None:
    """With two equal tracks and another one, diversity puts the other one second."""
    components = np.zeros((1, 3, 5), np.float32)
    components[..., 2], components[..., DIVERSITY] = [0.9, 0.8, 0.5], 1
    vectors = np.eye(28, dtype=np.float32)[[0, 0, 1]][None]
    positions, chosen, _ = Ranker(Formula()).select(features(components, vectors), CONTEXT, np.array([3]))
    assert positions[:, :3].tolist() == [[0, 2, 1]]
    assert chosen[:, :3, DIVERSITY].tolist() == [[1, 1, 0]]


def test_ties_go_to_the_first_valid_candidate() -> None:
    components = np.full((1, 4, 5), 0.5, np.float32)
    every = features(components, np.eye(28, dtype=np.float32)[None, :4])
    positions, _, lengths = Ranker(Formula()).select(every, CONTEXT, np.array([2]))
    assert positions[:, : lengths[0]].tolist() == [[0, 1]]
    some = replace(every, valid=np.array([[False, True, False, True]]))
    positions, _, lengths = Ranker(Formula()).select(some, CONTEXT, np.array([3]))
    assert positions[:, : lengths[0]].tolist() == [[1, 3]]
