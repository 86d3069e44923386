import itertools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from musix_runtime import Engine
from musix_runtime.ranker import COMPONENTS, DIVERSITY, Ranker

CONTEXT = np.array([10, np.nan], np.float32)


class Formula:
    """A session whose score is a known formula of the components."""

    def run(self, outputs: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        a, b, c, d, e = feed["components"].T
        return [(0.1 + 0.3 * a * b + 0.2 * c + 0.1 * d * e * a)[:, None]]


def test_shapley_values_are_the_mean_over_all_orders() -> None:
    ranker = Ranker(Formula())
    (row,) = components = np.array([[0.9, 0.5, 0.7, 1.0, 0.4]], np.float32)
    base, values = ranker.explain(components, CONTEXT)
    expected = np.zeros(5)
    for order in itertools.permutations(range(5)):
        seen = np.zeros((1, 5), np.float32)
        for i in order:
            before = Formula().run(None, {"components": seen})[0][0, 0]
            seen[0, i] = row[i]
            expected[i] += (Formula().run(None, {"components": seen})[0][0, 0] - before) / math.factorial(5)
    assert base[0] == 0.1
    np.testing.assert_allclose(values[0], expected, atol=2e-6)


@given(npst.arrays(np.float32, (7, 5), elements=st.floats(0, 1, width=32)))
def test_base_and_values_sum_to_the_score(engine: Engine, components: np.ndarray) -> None:
    base, values = engine.ranker.explain(components, CONTEXT)
    np.testing.assert_allclose(base + values.sum(axis=1), engine.ranker.scores(components, CONTEXT), atol=1.1e-6)


def test_scores_do_not_depend_on_the_batch(engine: Engine) -> None:
    components = np.random.default_rng(1).random((100, 5), np.float32)
    whole = engine.ranker.scores(components, CONTEXT)
    single = np.concatenate([engine.ranker.scores(row[None], CONTEXT) for row in components])
    assert (np.abs(whole - single) <= 1.1e-6).all()


def test_choose_takes_the_best_given_what_is_chosen() -> None:
    """Two twins and one other: when diversity counts, the other comes before the second twin."""

    class Diverse:
        def run(self, outputs: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            components = feed["components"]
            return [(0.5 * components[:, :1] + 0.5 * components[:, DIVERSITY:])]

    components = np.zeros((3, 5), np.float32)
    components[:, 0], components[:, DIVERSITY] = [0.9, 0.8, 0.5], 1
    vectors = np.eye(28, dtype=np.float32)[[0, 0, 1]]
    picks, chosen = Ranker(Diverse()).choose(components, vectors, CONTEXT, 3)
    assert picks.tolist() == [0, 2, 1]
    assert chosen[:, DIVERSITY].tolist() == [1, 1, 0]


def test_ties_go_to_the_first() -> None:
    components = np.full((4, 5), 0.5, np.float32)
    picks, _ = Ranker(Formula()).choose(components, np.eye(28, dtype=np.float32)[:4], CONTEXT, 2)
    assert picks.tolist() == [0, 1]
    assert len(COMPONENTS) == 5
