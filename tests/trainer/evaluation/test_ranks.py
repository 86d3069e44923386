import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranx import Qrels, Run, evaluate
from scipy.sparse import csr_matrix

from musix_trainer.evaluation import metrics


@pytest.mark.filterwarnings("ignore:unsafe cast")  # numba, of ranx itself
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_metrics_are_those_of_ranx(seed: int) -> None:
    rng = np.random.default_rng(seed)
    listeners, tracks = 8, 40
    scores = rng.permutation(listeners * tracks).reshape(listeners, tracks).astype(np.float32)
    state = rng.random((listeners, tracks))
    heard, wanted = state < 0.2, state > 0.85
    wanted[np.arange(listeners), rng.integers(0, tracks, listeners)] = True
    heard &= ~wanted
    places = metrics.full_ranks(scores, csr_matrix(heard.astype(float)), csr_matrix(wanted.astype(float)))
    truth = Qrels({str(i): {str(j): 1 for j in np.flatnonzero(wanted[i])} for i in range(listeners)})
    run = Run({str(i): {str(j): float(scores[i, j]) for j in np.flatnonzero(~heard[i])} for i in range(listeners)})
    expected = evaluate(truth, run, ["ndcg@10", "hit_rate@10", "recall@10", "precision@10"])
    assert metrics.ndcg(places, 10).mean() == pytest.approx(expected["ndcg@10"])
    assert metrics.hit_rate(places, 10).mean() == pytest.approx(expected["hit_rate@10"])
    assert metrics.recall(places, 10).mean() == pytest.approx(expected["recall@10"])
    assert metrics.precision(places, 10).mean() == pytest.approx(expected["precision@10"])
    lists = [np.flatnonzero(~heard[i])[np.argsort(-scores[i][~heard[i]])][:10] for i in range(listeners)]
    own = [set(np.flatnonzero(row).tolist()) for row in wanted]
    assert metrics.ndcg(metrics.list_ranks(lists, own), 10) == pytest.approx(metrics.ndcg(places, 10))


def test_ties_take_the_middle_place() -> None:
    scores = np.array([[3, 1, 1, 1, 0]], np.float32)
    nothing, second = csr_matrix((1, 5)), csr_matrix(([1.0], ([0], [1])), shape=(1, 5))
    assert metrics.full_ranks(scores, nothing, second)[0].tolist() == [3]  # of the places 2, 3 and 4
    assert metrics.sampled_ranks(np.array([1.0]), np.array([[2.0, 1.0, 1.0, 0.0]])).tolist() == [3]  # 2, 3 or 4
    assert metrics.sampled_ranks(np.zeros(1), np.zeros((1, 99))).tolist() == [
        50.5
    ]  # a model that says nothing is no good


def test_who_ranks_all_the_same_gets_what_chance_gives() -> None:
    places = metrics.full_ranks(np.zeros((1, 101), np.float32), csr_matrix((1, 101)), csr_matrix(np.eye(1, 101)))
    assert places[0].tolist() == [51]
    assert metrics.hit_rate(places, 10).tolist() == [0]
