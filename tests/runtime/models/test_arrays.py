import bisect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musix_runtime.models.arrays import ABSENT, SMALL_LOOKUP, Keys, RaggedRows, Strings, gather, unit

TEXTS = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=12)
ODD = st.sampled_from(["", "\ud800", "a\0", "\0", "x" * 900])


@given(st.lists(TEXTS.filter(lambda text: text.isprintable()), max_size=30), TEXTS | ODD)
def test_keys_find_known_and_unknown_keys(keys: list[str], other: str) -> None:
    held = sorted({key.encode() for key in keys})
    array = Keys(np.array(held, f"S{max(map(len, held), default=1)}"))
    wanted = other.encode("utf-8", "surrogatepass")
    position = bisect.bisect_left(held, wanted)
    expected = position if position < len(held) and held[position] == wanted else ABSENT
    texts = [*(key.decode() for key in held), other]
    positions = [*range(len(held)), expected]
    assert [array.find_one(text) for text in texts] == positions
    assert array.find(texts).tolist() == positions
    assert array.find(texts * SMALL_LOOKUP).tolist() == positions * SMALL_LOOKUP  # together, in place of one by one
    assert array.take(np.arange(len(held))) == [key.decode() for key in held]


def test_strings_are_split_at_their_offsets() -> None:
    strings = Strings(*Strings.pack(["a", "", "ñb", "東京"]))
    assert strings.take(np.array([3, 0, 1, 2])) == ["東京", "a", "", "ñb"]
    assert [strings[row] for row in range(4)] == ["a", "", "ñb", "東京"]


@pytest.mark.parametrize("row", [-1, 4, 10**12, -(10**12)])
def test_rows_out_of_range_are_clipped(row: int) -> None:
    """Mapped bytes may change, so no row number may be read outside of an array."""
    end = 0 if row < 0 else 3
    strings = ["a", "b", "c", "d"]
    assert Strings(*Strings.pack(strings)).take(np.array([row])) == [strings[end]]
    assert Keys(np.array(strings, "S1")).take(np.array([row])) == [strings[end]]
    assert gather(np.arange(4), np.array([row])).tolist() == [end]
    assert gather(np.empty((0, 3)), np.array([[row]])).tolist() == [[[0, 0, 0]]]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(0, 99))
def test_ragged_sums_equal_single_sums(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.integers(0, 20, size) for size in sizes]
    vectors = rng.standard_normal((20, 7)).astype(np.float32)
    rows = RaggedRows.of(parts)
    sums = rows.sums(vectors[rows.values])
    for part, result in zip(parts, sums, strict=True):
        alone = RaggedRows.of([part])
        assert alone.sums(vectors[alone.values])[0].tobytes() == result.tobytes()
        np.testing.assert_allclose(result, vectors[part].sum(axis=0), atol=1e-5)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_packed_strings_round_trip(texts: list[str]) -> None:
    strings = Strings(*Strings.pack(texts))
    assert [strings[i] for i in range(len(texts))] == texts


def test_unit_keeps_rows_of_zeros() -> None:
    assert unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0]]


def test_rows_are_added_several_times_to_requests_that_have_one() -> None:
    rows = RaggedRows.of([np.array([1, 2]), np.array([], np.int64), np.array([3])])
    result = rows.with_rows(np.array([7, 8, ABSENT]), 2)
    assert (result.values.tolist(), result.sizes.tolist()) == ([1, 2, 7, 7, 8, 8, 3], [4, 2, 1])
    assert rows.with_rows(np.full(3, ABSENT), 2) is rows
