import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musix_runtime.models.arrays import ABSENT
from musix_runtime.models.index import ONE_THREAD, Index, largest, mapped


def inverted_lists(vectors: np.ndarray, nlist: int, nprobe: int, coarse: faiss.Index | None = None) -> faiss.Index:
    width = vectors.shape[1]
    index = faiss.IndexIVFFlat(coarse or faiss.IndexFlatIP(width), width, nlist, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid, index.nprobe = 1, nprobe
    index.train(vectors)
    index.add(vectors)
    return index


@given(st.integers(1, 200), st.integers(1, 60), st.integers(0, 250), st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_flat_index_finds_the_largest_products(rows: int, width: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(-3, 4, (rows, width)).astype(np.float32)  # whole numbers: exact, and with many ties
    query = rng.integers(-3, 4, width).astype(np.float32)
    result, products = Index(matrix).nearest(query, count)
    every = matrix @ query
    assert products.tolist() == np.sort(every)[::-1][:count].tolist()
    assert len(set(result.tolist())) == len(result)
    assert products.tolist() == every[result].tolist()


def test_vector_with_nan_is_never_found() -> None:
    matrix = np.eye(5, dtype=np.float32)
    matrix[2, 3] = np.nan
    assert sorted(Index(matrix).nearest(np.ones(5, np.float32), 5)[0]) == [0, 1, 3, 4]


@given(st.integers(1, 4), st.integers(1, 300), st.data())
@settings(max_examples=200, deadline=None)
def test_largest_values_are_found_among_ties_and_nan(rows: int, width: int, data: st.DataObject) -> None:
    numbers = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0, np.inf, np.nan])
    values = np.array(data.draw(st.lists(numbers, min_size=rows * width, max_size=rows * width)), np.float32)
    values, count = values.reshape(rows, width), data.draw(st.integers(1, width))
    positions = largest(values, count)
    for row, found in zip(values, positions, strict=True):
        assert len(set(found.tolist())) == count
        np.testing.assert_array_equal(np.sort(row[found]), np.sort(row)[-count:])  # NaN is last


@pytest.mark.parametrize("one_thread", [ONE_THREAD, 300])  # centroids in one part, and in several
@pytest.mark.parametrize("width", [3, 28, 51])
def test_ivf_index_searches_the_nearest_lists(width: int, one_thread: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musix_runtime.models.index.ONE_THREAD", one_thread)
    rng = np.random.default_rng(width)
    vectors = rng.standard_normal((3000, width)).astype(np.float32)
    file = faiss.serialize_index(inverted_lists(vectors, 70, 5))
    searched, read = Index.read(vectors, file), mapped(file)
    lists, centroids = faiss.downcast_InvertedLists(read.invlists), read.quantizer.reconstruct_n(0, 70)
    for query in rng.standard_normal((20, width)).astype(np.float32):
        near = np.argsort(-(centroids @ query))[:5].tolist()
        rows = np.concatenate([faiss.rev_swig_ptr(lists.get_ids(i), lists.list_size(i)) for i in near])
        best = rows[np.argsort(-(vectors[rows] @ query))[:10]]
        assert searched.nearest(query, 10)[0].tolist() == best.tolist()


def test_ivf_index_searches_more_lists_when_results_are_missing() -> None:
    vectors = np.random.default_rng(0).standard_normal((3000, 9)).astype(np.float32)
    index = Index(vectors, inverted_lists(vectors, 64, 1))
    positions, products = index.nearest(vectors[5], 4000)
    assert sorted(positions.tolist()) == list(range(3000))
    assert (np.diff(products) <= 0).all()


def test_recall_is_the_share_of_the_exact_nearest() -> None:
    vectors = np.random.default_rng(0).standard_normal((3000, 9)).astype(np.float32)
    narrow, wide = (Index(vectors, inverted_lists(vectors, 64, nprobe)) for nprobe in (1, 64))
    for query in vectors[:20]:
        exact = set(np.argsort(-(vectors @ query))[:50].tolist())
        found = set(narrow.nearest(query, 50)[0].tolist())
        assert narrow.recall(query, 50) == len(exact & found) / 50
        assert wide.recall(query, 50) == Index(vectors).recall(query, 50) == 1
    assert np.mean([narrow.recall(query, 50) for query in vectors[:20]]) < 0.9


def test_recall_of_many_equal_vectors_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musix_runtime.models.index.BLOCK_ROWS", 7)
    vectors = np.ones((100, 3), np.float32)
    assert Index(vectors).recall(vectors[0], 10) == 1
    assert Index(vectors).recall(vectors[0], 1000) == 1
    assert Index(vectors[:0]).recall(vectors[0], 10) == 1


def test_batch_search_equals_single_searches() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((5000, 28)).astype(np.float32)
    for index in (Index(vectors), Index(vectors, inverted_lists(vectors, 64, 8))):
        queries, counts = rng.standard_normal((9, 28)).astype(np.float32), rng.integers(0, 300, 9).tolist()
        positions, products = index.search(queries, counts)
        assert positions.shape == products.shape == (9, max(counts))
        for i, count in enumerate(counts):
            alone = index.nearest(queries[i], count)
            assert positions[i, :count].tobytes() == alone[0].tobytes()
            assert products[i, :count].tobytes() == alone[1].tobytes()
            assert (positions[i, count:] == ABSENT).all()


def test_masked_search_finds_the_best_of_the_mask() -> None:
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((3001, 28)).astype(np.float32)
    queries, sizes = rng.standard_normal((6, 28)).astype(np.float32), (0, 1, 3, 40, 3000, 3001)
    masks = [np.isin(np.arange(3001), rng.permutation(3001)[:size]) for size in sizes]
    for index, exact in ((Index(vectors), 3001), (Index(vectors, inverted_lists(vectors, 64, 8)), 40)):
        positions, products = index.search(queries, [40] * 6, [*masks[:5], None])
        for i, (size, mask) in enumerate(zip(sizes, masks, strict=True)):
            found = positions[i, positions[i] != ABSENT]
            assert len(found) == min(size, 40)
            assert mask[found].all()
            if size <= exact:
                expected = np.flatnonzero(mask)[np.argsort(-(vectors[mask] @ queries[i]))][:40]
                assert found.tolist() == expected.tolist()
            np.testing.assert_allclose(products[i, : len(found)], vectors[found] @ queries[i], rtol=1e-4)
            assert index.nearest(queries[i], 40, None if i == 5 else mask)[0].tolist() == found.tolist()


def test_invalid_query_is_refused() -> None:
    index = Index(np.ones((4, 3), np.float32))
    for queries, counts in ((np.ones((1, 4)), [1]), (np.ones(3), [1]), (np.ones((2, 3)), [1])):
        with pytest.raises(ValueError, match="expected a count and 3 columns a query, found"):
            index.search(queries.astype(np.float32), counts)
    assert index.search(np.ones((0, 3), np.float32), [])[0].shape == (0, 1)
    assert index.nearest(np.ones(6)[::2], 9)[1].tolist() == [3, 3, 3, 3]
