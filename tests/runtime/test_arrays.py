import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from musix_runtime.arrays import ABSENT, Keys, Strings, unit

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(st.sets(TEXT, min_size=1), st.lists(TEXT))
def test_keys_find_what_is_there_and_nothing_else(present: set[str], asked: list[str]) -> None:
    ordered = sorted(present)
    keys = Keys(np.array([key.encode() for key in ordered]))
    expected = [ordered.index(key) if key in present else ABSENT for key in [*asked, *ordered]]
    assert keys.find([*asked, *ordered]).tolist() == expected


def test_keys_survive_what_no_key_can_be() -> None:
    keys = Keys(np.array([b"a", b"b"]))
    assert keys.find(["", "\0", "a\0", "b" * 10_000, "\ud800"]).tolist() == [ABSENT] * 5
    assert Keys(np.array([], "S1")).find(["a"]).tolist() == [ABSENT]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_strings_come_back_as_packed(texts: list[str]) -> None:
    strings = Strings(*Strings.pack(texts))
    assert [strings[i] for i in range(len(texts))] == texts


def test_unit_leaves_zeros_alone() -> None:
    assert unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0]]
