"""The decoder returns what was encoded, in whatever order the fields come."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musix_runtime.bundle.protobuf import BYTES, FLOAT, INT, MAX_VALUES, Field, decode

FIELDS = {
    1: Field("ints", INT, repeated=True),
    2: Field("floats", FLOAT, repeated=True),
    3: Field("strings", BYTES, repeated=True),
    2000: Field("ints of a long tag", INT, repeated=True),
    2001: Field("strings of a long tag", BYTES, repeated=True),
}
integers = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300)
strings = st.binary(max_size=3) | st.integers(120, 300).map(bytes)
floats = st.floats(width=32, allow_nan=False)
values = st.one_of(
    st.tuples(st.sampled_from([1, 2000]), integers),
    st.tuples(st.just(2), floats),
    st.tuples(st.sampled_from([3, 2001]), strings),
)


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def encode(number: int, value: int | float | bytes) -> bytes:
    """Return one field, as https://protobuf.dev/programming-guides/encoding/ describes it."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + np.float32(value).tobytes()
    return varint(number << 3 | 2) + varint(len(value)) + value


@given(st.lists(values, max_size=40))
def test_decoding_returns_what_was_encoded(fields: list[tuple[int, int | float | bytes]]) -> None:
    found = decode(b"".join(encode(*field) for field in fields), FIELDS, "message")

    for number, field in FIELDS.items():
        assert list(found[field.name]) == [value for each, value in fields if each == number]


@pytest.mark.parametrize("size", [0, 1])
def test_strings_beyond_the_bound_are_refused_before_they_are_kept(size: int) -> None:
    data = encode(3, bytes(size)) * (4 * MAX_VALUES)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"message: expected at most 1,048,576 values in total, found more"):
            decode(data, FIELDS, "message")
        assert tracemalloc.get_traced_memory()[1] < 16 * MAX_VALUES
    finally:
        tracemalloc.stop()
