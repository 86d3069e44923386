import bisect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musix_runtime.models.arrays import ABSENT, FEW, Keys, RaggedRows, Strings, gather, unit

TEXTS = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=12)
ODD = st.sampled_from(["", "\ud800", "a\0", "\0", "x" * 900])


@given(st.lists(TEXTS.filter(lambda text: text.isprintable()), max_size=30), TEXTS | ODD)
def test_a_key_is_found_where_it_stands_or_not_at_all(keys: list[str], other: str) -> None:
    held = sorted({key.encode() for key in keys})
    array = Keys(np.array(held, f"S{max(map(len, held), default=1)}"))
    wanted = other.encode("utf-8", "surrogatepass")
    position = bisect.bisect_left(held, wanted)
    expected = position if position < len(held) and held[position] == wanted else ABSENT
    texts = [*(key.decode() for key in held), other]
    positions = [*range(len(held)), expected]
    assert [array.find_one(text) for text in texts] == positions
    assert array.find(texts).tolist() == positions
    assert array.find(texts * FEW).tolist() == positions * FEW  # together, in place of one by one
    assert array.take(np.arange(len(held))) == [key.decode() for key in held]


def test_strings_are_cut_where_the_offsets_say() -> None:
    strings = Strings(*Strings.pack(["a", "", "ñb", "東京"]))
    assert strings.take(np.array([3, 0, 1, 2])) == ["東京", "a", "", "ñb"]
    assert [strings[row] for row in range(4)] == ["a", "", "ñb", "東京"]


@pytest.mark.parametrize("row", [-1, 4, 10**12, -(10**12)])
def test_a_row_beyond_the_ends_is_the_end(row: int) -> None:
    """As bytes may change under a process that has mapped them, nothing is ever read outside of an array."""
    end = 0 if row < 0 else 3
    strings = ["a", "b", "c", "d"]
    assert Strings(*Strings.pack(strings)).take(np.array([row])) == [strings[end]]
    assert Keys(np.array(strings, "S1")).take(np.array([row])) == [strings[end]]
    assert gather(np.arange(4), np.array([row])).tolist() == [end]
    assert gather(np.empty((0, 3)), np.array([[row]])).tolist() == [[[0, 0, 0]]]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(0, 99))
def test_sums_are_those_of_each_request_alone(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.integers(0, 20, size) for size in sizes]
    vectors = rng.standard_normal((20, 7)).astype(np.float32)
    rows = RaggedRows.of(parts)
    sums = rows.sums(vectors[rows.values])
    for part, found in zip(parts, sums, strict=True):
        alone = RaggedRows.of([part])
        assert alone.sums(vectors[alone.values])[0].tobytes() == found.tobytes()
        np.testing.assert_allclose(found, vectors[part].sum(axis=0), atol=1e-5)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_strings_come_back_as_packed(texts: list[str]) -> None:
    strings = Strings(*Strings.pack(texts))
    assert [strings[i] for i in range(len(texts))] == texts


def test_unit_leaves_zeros_alone() -> None:
    assert unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0]]
