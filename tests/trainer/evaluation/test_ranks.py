import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from musix_trainer.evaluation import metrics


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_metrics_equal_those_of_ranx(seed: int) -> None:
    import numba

    numba.config.DISABLE_JIT = True  # before the import of ranx: to compile it takes longer than all its work here
    from ranx import Qrels, Run, evaluate  # a second to import, for one process of the tests

    rng = np.random.default_rng(seed)
    listeners, tracks = 8, 40
    scores = rng.permutation(listeners * tracks).reshape(listeners, tracks).astype(np.float32)
    state = rng.random((listeners, tracks))
    history, relevant = state < 0.2, state > 0.85
    relevant[np.arange(listeners), rng.integers(0, tracks, listeners)] = True
    history &= ~relevant
    ranks = metrics.full_ranks(scores, csr_matrix(history.astype(float)), csr_matrix(relevant.astype(float)))
    truth = Qrels({str(i): {str(j): 1 for j in np.flatnonzero(relevant[i])} for i in range(listeners)})
    run = Run({str(i): {str(j): float(scores[i, j]) for j in np.flatnonzero(~history[i])} for i in range(listeners)})
    expected = evaluate(truth, run, ["ndcg@10", "hit_rate@10", "recall@10", "precision@10"])
    assert metrics.ndcg(ranks, 10).mean() == pytest.approx(expected["ndcg@10"])
    assert metrics.hit_rate(ranks, 10).mean() == pytest.approx(expected["hit_rate@10"])
    assert metrics.recall(ranks, 10).mean() == pytest.approx(expected["recall@10"])
    assert metrics.precision(ranks, 10).mean() == pytest.approx(expected["precision@10"])
    lists = [np.flatnonzero(~history[i])[np.argsort(-scores[i][~history[i]])][:10] for i in range(listeners)]
    own = [set(np.flatnonzero(row).tolist()) for row in relevant]
    assert metrics.ndcg(metrics.list_ranks(lists, own), 10) == pytest.approx(metrics.ndcg(ranks, 10))


def test_tied_items_have_their_mean_rank() -> None:
    scores = np.array([[3, 1, 1, 1, 0]], np.float32)
    empty, second = csr_matrix((1, 5)), csr_matrix(([1.0], ([0], [1])), shape=(1, 5))
    assert metrics.full_ranks(scores, empty, second)[0].tolist() == [3]  # mean of 2, 3 and 4
    assert metrics.sampled_ranks(np.array([1.0]), np.array([[2.0, 1.0, 1.0, 0.0]])).tolist() == [3]  # 2, 3 or 4
    assert metrics.sampled_ranks(np.zeros(1), np.zeros((1, 99))).tolist() == [
        50.5
    ]  # constant scores are not better than chance


def test_constant_scores_have_the_rank_of_chance() -> None:
    ranks = metrics.full_ranks(np.zeros((1, 101), np.float32), csr_matrix((1, 101)), csr_matrix(np.eye(1, 101)))
    assert ranks[0].tolist() == [51]
    assert metrics.hit_rate(ranks, 10).tolist() == [0]
