from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from musix_runtime.models.selection import PAGE, pairwise_diversity, select_diverse


def unit_vectors(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@given(st.integers(0, 99))
@settings(deadline=None)
def test_diversity_is_one_minus_the_cosine_in_tenths(seed: int) -> None:
    vectors = unit_vectors(np.random.default_rng(seed), 2, 7, 28)
    whole = np.rint(vectors * 2048).astype(np.int64)
    expected = np.rint((2048**2 - whole @ whole.transpose(0, 2, 1)) * 10 / 2048**2).clip(0, 10)
    assert pairwise_diversity(vectors).tolist() == expected.tolist()


def chosen_by_hand(
    scores: np.ndarray, diversity: np.ndarray, valid: np.ndarray, limit: int, artists: np.ndarray, most: int
) -> list[tuple[int, int]]:
    """Return positions and diversities of the list of one request, by definition."""
    levels, left, pages = [10] * len(valid), np.flatnonzero(valid).tolist(), [[]]
    taken: Counter[int] = Counter()
    while left:
        if len(pages[-1]) == PAGE:
            pages.append([])
        free = [i for i in left if taken[artists[i]] < most * len(pages)]
        if not free:
            break
        pick = min(free, key=lambda i: (-scores[i, levels[i]], i))
        pages[-1].append((-scores[pick, levels[pick]], pick, levels[pick]))
        left.remove(pick)
        taken[artists[pick]] += 1
        for i in left:
            levels[i] = min(levels[i], diversity[pick, i])
    return [(pick, level) for page in pages for _, pick, level in sorted(page)][:limit]


@given(st.integers(1, 5), st.integers(1, 30), st.integers(1, 25), st.integers(1, 4), st.integers(0, 999))
@settings(max_examples=200, deadline=None)
def test_selection_is_greedy_and_limited_by_artist(batch: int, n: int, limit: int, names: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 30, (batch, n, 11)).astype(np.float64)  # with many ties
    diversity = pairwise_diversity(unit_vectors(rng, batch, n, 3))
    valid, limits = rng.random((batch, n)) < 0.8, rng.integers(1, limit + 1, batch)
    artists, most = rng.integers(0, names, (batch, n)), rng.integers(1, 11, batch)
    places, levels, lengths = select_diverse(scores, diversity, valid, limits, artists, most)
    positions = places - np.arange(batch)[:, None] * n
    for i in range(batch):
        expected = chosen_by_hand(scores[i], diversity[i], valid[i], limits[i], artists[i], most[i])
        result = zip(positions[i].tolist(), levels[i].tolist(), strict=True)
        assert list(result)[: lengths[i]] == expected
