import bisect

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from musix_runtime import kernels
from musix_runtime.index import Clusters, Index, mapped

TEXTS = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=12)
SHARES = st.floats(0, 1, width=32)


@given(st.lists(TEXTS.filter(lambda text: text.isprintable()), max_size=30), TEXTS | st.just("\ud800") | st.just("a\0"))
def test_a_key_is_found_where_it_stands_or_not_at_all(keys: list[str], other: str) -> None:
    held = sorted({key.encode() for key in keys})
    array = np.array(held, f"S{max(map(len, held), default=1)}")
    for place, key in enumerate(held):
        assert kernels.find(array, key.decode()) == place
    wanted = other.encode("utf-8", "surrogatepass")
    place = bisect.bisect_left(held, wanted)
    assert kernels.find(array, other) == (place if place < len(held) and held[place] == wanted else -1)
    assert kernels.keys_at(array, np.arange(len(held))) == [key.decode() for key in held]


def test_texts_are_cut_where_the_offsets_say() -> None:
    data = np.frombuffer("añb東京".encode(), np.uint8)
    offsets = np.array([0, 1, 1, 4, 10])
    assert kernels.texts(data, offsets, np.array([3, 0, 1, 2])) == ["東京", "a", "", "ñb"]
    for row in (-1, 4):
        with pytest.raises(ValueError, match="expected rows that there are"):
            kernels.texts(data, offsets, np.array([row]))


@given(st.integers(1, 200), st.integers(1, 60), st.integers(0, 250), st.integers(0, 9))
@settings(max_examples=200)
def test_the_exact_search_finds_the_greatest_products(rows: int, width: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(-3, 4, (rows, width)).astype(np.float32)  # whole numbers: exact, and with many ties
    query = rng.integers(-3, 4, width).astype(np.float32)
    found, products = Index(matrix).nearest(query, count)
    every = matrix @ query
    best = np.lexsort((np.arange(rows), -every))[:count]
    assert found.tolist() == best.tolist()
    assert products.tolist() == every[best].tolist()


def test_a_vector_that_is_no_number_is_never_found() -> None:
    matrix = np.eye(5, dtype=np.float32)
    matrix[2, 3] = np.nan
    assert sorted(Index(matrix).nearest(np.ones(5, np.float32), 5)[0]) == [0, 1, 3, 4]


@pytest.mark.parametrize("width", [3, 28, 51, 64, 70])
def test_clusters_are_searched_as_the_format_says(width: int) -> None:
    """The search of bundles/README.md, written in numpy."""
    rng = np.random.default_rng(width)
    vectors = rng.standard_normal((3000, width)).astype(np.float32)
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(width), width, 70, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.min_points_per_centroid, index.nprobe = 1, 5
    index.train(vectors)
    index.add(vectors)
    file = faiss.serialize_index(index)
    read = mapped(file)
    searched = Index(vectors, Clusters.read(read, file))

    def whole(query: np.ndarray, span: np.ndarray) -> tuple[np.ndarray, float]:
        weights = query * (span / np.float32(255))
        unit = float(np.abs(weights).max() / np.float32(127))
        return np.rint(weights / np.float32(unit)).astype(int), unit

    centres = read.quantizer.reconstruct_n(0, 70)
    span = np.ptp(centres, axis=0)
    coded = np.rint((centres - centres.min(axis=0)) / span * 255).astype(int)
    lists = faiss.downcast_InvertedLists(read.invlists)
    for query in rng.standard_normal((50, width)).astype(np.float32):
        of_centres, unit = whole(query, span)
        keys = (coded @ of_centres) * unit
        of_codes, unit = whole(query, faiss.vector_to_array(read.sq.trained)[width:])
        rows, near = [], []
        for cluster in np.argsort(-keys)[:5].tolist():
            size = lists.list_size(cluster)
            codes = faiss.rev_swig_ptr(lists.get_codes(cluster), size * width).reshape(size, width).astype(int)
            rows.append(faiss.rev_swig_ptr(lists.get_ids(cluster), size).copy())
            near.append(keys[cluster] + (codes @ of_codes) * unit)
        some = np.concatenate(rows)[np.argsort(-np.concatenate(near))[:15]]
        best = some[np.argsort(-(vectors[some] @ query))[:10]]
        assert searched.nearest(query, 10)[0].tolist() == best.tolist()
    every, products = searched.nearest(query, 3000)
    assert sorted(every) == list(range(3000))
    assert (np.diff(products) <= 0).all()


@given(npst.arrays(np.float32, (11, 7), elements=SHARES), st.integers(1, 7), st.integers(0, 99))
def test_a_list_is_chosen_one_by_one(scores: np.ndarray, limit: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((7, 28)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    components = rng.random((7, 5), np.float32)
    whole = np.rint(vectors * 2048).astype(np.int64)
    apart = np.rint((2048**2 - whole @ whole.T) * 10 / 2048**2).clip(0, 10).astype(int)
    tenths, left, wanted = [10] * 7, list(range(7)), []
    for _ in range(limit):
        of = {i: round(float(scores[tenths[i], i]) * 1e6) for i in left}
        pick = min(left, key=lambda i: (-of[i], i))
        wanted.append((-of[pick], pick, tenths[pick]))
        left.remove(pick)
        for i in left:
            tenths[i] = min(tenths[i], apart[pick, i])
    picks, chosen = np.empty(limit, np.int64), np.empty((limit, 5), np.float32)
    kernels.choose(scores, vectors, components, picks, chosen)
    assert picks.tolist() == [pick for _, pick, _ in sorted(wanted)]
    np.testing.assert_array_equal(chosen[:, :4], components[picks, :4])
    assert chosen[:, 4].tolist() == pytest.approx([each / 10 for _, _, each in sorted(wanted)])


@given(npst.arrays(np.float64, (3, 5), elements=st.floats(-1, 1)))
def test_percents_add_up_and_the_largest_come_first(values: np.ndarray) -> None:
    values = np.rint(values * 1e6) / 1e6
    told = kernels.tell(np.zeros(3), values, tuple("bvwxyz"), ("one", "two", "three", "four", "five"), "nothing")
    for (score, reason, contributions), row in zip(told, values, strict=True):
        assert score == pytest.approx(row.sum(), abs=1e-9)
        assert list(contributions.values()) == [0, *row]
        percents = [int(each.split("%")[0]) for each in reason.split(" + ")] if reason != "nothing" else []
        assert sum(percents) == (100 if (row > 0).any() else 0)
        assert percents == sorted(percents, reverse=True)


def test_what_is_no_argument_is_refused() -> None:
    matrix, query = np.ones((4, 3), np.float32), np.ones(3, np.float32)
    places, products = np.empty(2, np.int64), np.empty(2, np.float32)
    index = Index(matrix).kernel
    with pytest.raises(TypeError, match="query: expected items of kind 'f', found 'd'"):
        index.nearest(query.astype(np.float64), places, products)
    with pytest.raises(ValueError, match="expected a query as wide as the vectors"):
        index.nearest(np.ones(4, np.float32), places, products)
    with pytest.raises(ValueError, match="contiguous"):
        index.nearest(np.ones(6, np.float32)[::2], places, products)
    with pytest.raises(TypeError, match="expected 3 arguments, found 2"):
        index.nearest(query, places)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="expected two indexes"):
        kernels.Pool(index, None, *[None] * 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="vectors of 1 to 256 columns"):
        Index(np.ones((2, 300), np.float32))
