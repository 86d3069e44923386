"""The check of requests that a program made, of whatever values a program may have."""

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from musix_runtime import AudioFeatures, ClassifyRequest, Filters, RecommendRequest, SimilarRequest
from musix_runtime.errors import RequestError
from musix_runtime.parsing import check, check_all
from tests.features import FEATURES

NEEDED: dict[Any, dict[str, Any]] = {
    RecommendRequest: {"user_id": "x"},
    ClassifyRequest: {},
    SimilarRequest: {"track_id": "x"},
}
FIELDS = [(type_, name) for type_ in NEEDED for name in type_.__struct_fields__]
MESSAGES = ("expected ", "is required", "unknown field;", "number out of range")

OF_NUMPY = npst.scalar_dtypes().flatmap(npst.from_dtype) | st.sampled_from(
    [np.longdouble(1), np.clongdouble(1), np.timedelta64("NaT"), np.datetime64("NaT")]
)
RECORDS = np.void(b"a"), np.zeros(1, "i4,U1,M8[s]")[0]  # which are no keys
SCALARS = (
    st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text(st.characters()) | st.binary()
    | st.decimals() | st.fractions() | st.uuids() | st.dates() | st.times() | st.datetimes() | st.timedeltas()
    | st.binary().map(bytearray) | st.binary().map(memoryview)
    | st.sampled_from([None, "\ud800", str, ..., Fraction, *RECORDS])
)  # fmt: skip
ARRAYS = npst.arrays(npst.scalar_dtypes(), npst.array_shapes(min_dims=0, max_dims=2, max_side=2))
KEYS = st.sampled_from(["hour", "genres", "energy"]) | st.text() | st.integers() | st.none() | st.dates() | OF_NUMPY
VALUES = st.recursive(
    SCALARS | OF_NUMPY | ARRAYS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.lists(inner, max_size=3).map(iter)
        | st.dictionaries(KEYS | st.tuples(KEYS), inner, max_size=3)
    ),
    max_leaves=4,
)


def refused(checks: Callable[..., Any], *arguments: Any) -> str:
    """Return the message of the RequestError that a check raises, in which each error has a place and what was
    expected; and nothing if it raises none."""
    try:
        checks(*arguments)
    except RequestError as error:
        for each in error.field_errors:
            assert each.path
            assert each.message.lower().startswith(MESSAGES), each
        return str(error)
    return ""


@settings(max_examples=300)
@given(st.sampled_from(FIELDS), VALUES)
def test_a_field_of_any_value_is_refused_or_what_http_could_have_sent(field: tuple[Any, str], value: Any) -> None:
    type_, name = field
    request = type_(**{**NEEDED[type_], name: value})
    if not refused(check, request, type_):
        sent = msgspec.to_builtins(check(request, type_))
        assert msgspec.convert(sent, type_) == check(request, type_)
        assert not isinstance(value, np.timedelta64)


@settings(max_examples=100)
@given(VALUES)
def test_a_batch_of_any_value_is_refused_or_empty(value: Any) -> None:
    assert refused(check, value, RecommendRequest).startswith("$: expected RecommendRequest, found ")
    assert refused(check_all, [value], RecommendRequest).startswith("[0]: expected RecommendRequest, found ")
    if not refused(check_all, value, RecommendRequest):
        assert not list(value)
        assert not isinstance(value, dict | str | bytes)


def fail(*_: Any, **__: Any) -> Any:
    raise KeyError("hostile")


def hostile(*bases: type) -> Any:
    """Return an object of which each method raises an error, and a subclass of these types."""
    names = "repr str len iter next bool eq getattribute int float index format reversed"
    members = {f"__{name}__": fail for name in names.split()}
    kind: Any = type("Hostile", bases, members)
    return kind.__new__(kind)


@dataclass
class Row:
    hour: Any


class Choice(enum.Enum):
    OTHER = object()
    NUMBER = np.int64(3)


def in_itself(make: Callable[[list[Any]], Any]) -> list[Any]:
    """Return a list in which there is what is made of it."""
    inner: list[Any] = []
    inner.append(make(inner))
    return inner


def nested(depth: int) -> list[Any]:
    """Return a list in a list in a list."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def failing() -> Iterator[RecommendRequest]:
    yield RecommendRequest("x")
    fail()


BASES = [(), (str,), (int,), (float,), (bytes,), (set,), (list,), (dict,), (tuple,)]
WILD: dict[str, Callable[[], Any]] = {
    "list in itself": lambda: in_itself(lambda inner: inner),
    "dict in itself": lambda: in_itself(lambda inner: {"hour": inner, "genres": inner})[0],
    "request in itself": lambda: in_itself(lambda inner: Filters(genres=inner))[0],
    "row in itself": lambda: in_itself(Row)[0],
    "nested": lambda: nested(2000),
    "large number": lambda: 10**5000,
    "small number": lambda: -(10**5000),
    "large key": lambda: {10**5000: 1, "hour": 10**5000},
    "large key in a tuple": lambda: {(10**5000,): 1},
    "number as a key": lambda: {1: 2},
    "none as a key": lambda: {None: 2},
    "row": lambda: Row(np.longdouble(3)),
    "object of a choice": lambda: Choice.OTHER,
    "generator": lambda: (each for each in "ab"),
    "failing generator": failing,
    "memory with gaps": lambda: memoryview(b"abcd")[::2],
    "raw": lambda: msgspec.Raw(b"{"),
    "class": lambda: RecommendRequest,
    "wrong request": lambda: RecommendRequest(hostile()),
    **{f"hostile {bases}": lambda bases=bases: hostile(*bases) for bases in BASES[:6]},  # others are empty
    **{f"list of hostile {bases}": lambda bases=bases: [hostile(*bases)] for bases in BASES},
    **{f"dict of hostile {bases}": lambda bases=bases: {"hour": hostile(*bases)} for bases in BASES},
}


@pytest.mark.parametrize("make", WILD.values(), ids=WILD)
def test_wild_values_are_refused_wherever_they_are(make: Callable[[], Any]) -> None:
    for type_, name in FIELDS:
        assert refused(check, type_(**{**NEEDED[type_], name: make()}), type_), name
    for feature in FEATURES:
        features = AudioFeatures(**{**FEATURES, feature: make()})
        assert refused(check, ClassifyRequest(audio_features=features), ClassifyRequest), feature
    assert refused(check_all, [make()], ClassifyRequest).startswith("[0]: expected ClassifyRequest, found ")
    assert refused(check_all, make(), ClassifyRequest)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (in_itself(lambda inner: inner), "$: expected values of JSON's types, found: a value that contains itself, or"),
        (np.longdouble(3), "$: expected values of JSON's types, found: longdouble"),
        (np.timedelta64(5, "ns"), "$: expected values of JSON's types, found: timedelta64"),
        (np.timedelta64(5, "D"), "limit: expected int, found duration"),
        (np.datetime64(5, "ns"), "$: expected values of JSON's types, found: datetime64"),
        (10**5000, "limit: expected int <= 100, found a number of 16,610 bits"),
        (-(10**5000), "limit: expected int >= 1, found a number of 16,610 bits"),
    ],
    ids=range(7),
)  # fmt: skip
def test_the_message_says_what_was_found(value: Any, message: str) -> None:
    assert refused(check, RecommendRequest("x", limit=value), RecommendRequest).startswith(message)


@pytest.mark.parametrize("field", ["context", "filters"])
@pytest.mark.parametrize("key", [1, None, (1, 2)])
def test_keys_that_are_no_text_are_named(field: str, key: Any) -> None:
    request = RecommendRequest("x", **{field: {key: 2}})
    assert refused(check, request, RecommendRequest).startswith(f"{field}.{key}: unknown field; known are ")


@pytest.mark.parametrize(
    ("batch", "found"),
    [({}, "dict"), ("", "str"), (b"", "bytes"), (set(), "set"), ({}.keys(), "dict_keys"), (3, "int"),
     (np.array(3), "ndarray, which raises TypeError"), (failing(), "generator, which raises KeyError")],
)  # fmt: skip
def test_a_batch_is_a_list(batch: Any, found: str) -> None:
    message = f"$: expected a list of RecommendRequest, found {found}"
    assert refused(check_all, batch, RecommendRequest) == message


def test_numbers_and_days_of_numpy_are_accepted() -> None:
    filters = Filters(released_after=np.datetime64("2020-01-01"))  # type: ignore[arg-type]
    request = RecommendRequest(np.str_("x"), limit=np.uint8(3), filters=filters)  # type: ignore[arg-type]
    checked = check(request, RecommendRequest)
    assert (checked.user_id, checked.limit, str(checked.filters.released_after)) == ("x", 3, "2020-01-01")  # type: ignore[union-attr]
