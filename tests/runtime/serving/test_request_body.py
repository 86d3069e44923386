"""Request bodies that are read, unpacked and decoded, and those that are refused early."""

import asyncio
import gzip
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from musix_runtime.errors import MAX_FIELD_ERRORS, RequestError
from musix_runtime.schemas import BATCH_LIMIT, ClassifyRequest, RecommendRequest, SimilarRequest
from musix_runtime.serving.request_body import MAX_FULLY_CHECKED_BYTES, MAX_VALUES, BatchDecoder, Decoder, read_body
from musix_runtime.settings import Settings
from tests.features import FEATURES

JSON = b"application/json"
BODY = b'{"userId":"a"}'
PACKED = gzip.compress(BODY, mtime=0)
DECODERS = (BatchDecoder(), *(Decoder(item) for item in (ClassifyRequest, RecommendRequest, SimilarRequest)))


def read(*parts: bytes, kind: bytes = JSON, encoding: bytes = b"", transfer: bytes = b"", limit: int = 1000) -> bytes:
    """Return the result of `read_body` for a body in parts."""
    headers = [(b"content-type", kind), (b"content-encoding", encoding), (b"transfer-encoding", transfer)]
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": "http.request"})

    async def receive() -> Any:
        return messages.pop(0)

    return asyncio.run(read_body({"type": "http", "headers": headers}, receive, Settings(max_body_bytes=limit)))


def refusal(*parts: bytes, **options: Any) -> tuple[int, str]:
    with pytest.raises(HTTPException) as caught:
        read(*parts, **options)
    return caught.value.status_code, caught.value.detail


def wrong(decoder: Decoder[Any], body: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decoder.decode(body)
    return caught.value


def refused_by(decoder: Decoder[Any], body: bytes) -> RequestError | HTTPException | None:
    """Return the error of a body, or None. Other kinds of errors fail the test."""
    try:
        decoder.decode(body)
    except (RequestError, HTTPException) as error:
        return error
    return None


def test_gzip_body_in_any_parts_is_unpacked() -> None:
    for encoding in (b"gzip", b"GZIP", b"x-gzip"):
        assert read(PACKED, encoding=encoding) == BODY
        assert read(*(bytes([item]) for item in PACKED), encoding=encoding) == BODY
    assert read(BODY, encoding=b"identity") == read(BODY) == BODY


def test_a_gzip_bomb_is_refused_while_it_is_unpacked() -> None:
    bomb = gzip.compress(b" " * 10_000_000, mtime=0)
    assert refusal(bomb, encoding=b"gzip", limit=100_000) == (413, "body: expected at most 100,000 bytes, found more")
    assert read(gzip.compress(b" " * 1000, mtime=0), encoding=b"gzip", limit=1000) == b" " * 1000
    assert refusal(gzip.compress(b" " * 1001, mtime=0), encoding=b"gzip", limit=1000)[0] == 413


@pytest.mark.parametrize("expect", [[], [(b"expect", b"100-continue")]])
@pytest.mark.parametrize("length", [b"1001", b"9" * 5000])
def test_a_length_above_the_limit_is_refused_before_the_body_is_read(
    expect: list[tuple[bytes, bytes]], length: bytes
) -> None:
    """A server sends `100 Continue` when the body is read."""

    async def receive() -> Any:
        raise AssertionError("read")

    headers = [(b"content-type", JSON), (b"content-length", length), *expect]
    with pytest.raises(HTTPException) as caught:
        asyncio.run(read_body({"type": "http", "headers": headers}, receive, Settings(max_body_bytes=1000)))
    assert (caught.value.status_code, caught.value.detail) == (413, "body: expected at most 1,000 bytes, found more")
    assert caught.value.headers == ({"connection": "close"} if expect else None)


def test_gzip_bytes_without_content_count_too() -> None:
    assert refusal(PACKED[:10] + b"\0\0\0\xff\xff" * 300, encoding=b"gzip")[0] == 413


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (PACKED[:-1], "expected a whole stream, found only its beginning"),
        (b"", "expected a whole stream, found only its beginning"),
        (BODY, "expected a stream that can be unpacked, found: "),
        (PACKED[:-8] + bytes(8), "expected a stream that can be unpacked, found: "),
        (PACKED + b"x", "expected nothing after its end, found more bytes"),
        (PACKED + PACKED, "expected nothing after its end, found more bytes"),
    ],
)
def test_broken_gzip_is_refused_with_a_sentence(body: bytes, expected: str) -> None:
    for parts in ([body], [body[: len(PACKED)], body[len(PACKED) :]]):
        status, message = refusal(*parts, encoding=b"gzip")
        assert (status, message.startswith(f"body, by its content-encoding gzip: {expected}")) == (400, True)


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"deflate", b"gzip, gzip", b"x" * 5000])
def test_other_encodings_are_refused_with_the_accepted_one(encoding: bytes) -> None:
    status, message = refusal(PACKED, encoding=encoding)
    assert (status, message[:50]) == (415, "content-encoding: expected gzip or none, found " + encoding.decode()[:3])
    assert len(message) < 200


def test_other_transfer_encodings_are_refused() -> None:
    read(BODY, transfer=b"Chunked")
    expected = 415, "transfer-encoding: expected chunked or none, found gzip, chunked"
    assert refusal(BODY, transfer=b"gzip, chunked") == expected


def test_a_utf8_mark_is_skipped() -> None:
    assert read(b"\xef\xbb\xbf" + BODY) == read(b"\xef", b"\xbb\xbf" + BODY) == BODY


@pytest.mark.parametrize(
    "kind",
    [
        b"application/json; charset=utf-8",
        b'Application/JSON;charset="UTF-8"',
        b"application/vnd.api+json",
        b"application/json; version=1",
    ],
)
def test_content_types_that_are_json(kind: bytes) -> None:
    assert read(BODY, kind=kind) == BODY


@pytest.mark.parametrize(
    "kind", [b"", b"text/json", b"application/jsonp", b"application/+json", b"text/plain", b"x" * 9999]
)
def test_content_types_that_are_not_json(kind: bytes) -> None:
    status, message = refusal(BODY, kind=kind)
    assert (status, message.startswith("content-type: expected application/json, found")) == (415, True)
    assert len(message) < 200


@pytest.mark.parametrize("charset", [b"utf-16", b"iso-8859-1", b'"latin1"', b""])
def test_another_charset_is_refused(charset: bytes) -> None:
    status, message = refusal(BODY, kind=JSON + b"; charset=" + charset)
    assert (status, message.startswith("content-type: expected charset=utf-8, found")) == (415, True)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (BODY.decode().encode("utf-16"), "body: expected JSON in UTF-8, found UTF-16 or UTF-32"),
        (BODY.decode().encode("utf-16-le"), "body: expected JSON in UTF-8, found UTF-16 or UTF-32"),
        (BODY.decode().encode("utf-32"), "body: expected JSON in UTF-8, found UTF-16 or UTF-32"),
        ('{"userId":"é"}'.encode("latin-1"), "body: expected JSON in UTF-8, found byte 0xe9 where UTF-8 has none"),
        ('{"userId":"é'.encode()[:-1], "body: expected JSON in UTF-8, found byte 0xc3 where UTF-8 has none"),
        (b"{" + b" " * 20_000, "body: expected JSON, found: Input data was truncated"),
    ],
)
def test_body_that_is_not_utf8_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(HTTPException) as caught:
        Decoder(RecommendRequest).decode(body)
    assert (caught.value.status_code, caught.value.detail) == (400, message)


def test_values_are_counted_before_decoding() -> None:
    error = wrong(BatchDecoder(), b"[" + b"0," * 1_999_999 + b"0]")
    assert str(error) == f"$: expected at most {MAX_VALUES:,} values in a request, found about 2,000,001"


@pytest.mark.parametrize("unit", [b"[]", b"{}", b"[[]]", b"[" * 900 + b"]" * 900])
def test_no_form_has_more_values_than_are_counted(unit: bytes) -> None:
    """Arrays in each other are values without a comma."""
    many = 1 + MAX_VALUES // (unit.count(b"[") + unit.count(b"{"))
    error = wrong(Decoder(list[object]), b"[" + b",".join([unit] * many) + b"]")
    assert str(error).startswith(f"$: expected at most {MAX_VALUES:,} values in a request, found about ")


def test_a_batch_has_at_most_a_thousand_tracks() -> None:
    many = b"[" + b",".join([b'{"trackId":"a"}'] * 1001) + b"]"
    for body in (many, b"[" + b",".join([b"0"] * 1001) + b"]"):
        assert str(wrong(BatchDecoder(), body)) == "$: expected an array of at most 1,000 tracks, found 1,001"


def test_error_has_at_most_twenty_wrong_fields_and_counts_more() -> None:
    error = wrong(BatchDecoder(), b"[" + b"0," * 999 + b"0]")
    assert (len(error.field_errors), error.more) == (MAX_FIELD_ERRORS, BATCH_LIMIT - MAX_FIELD_ERRORS)
    assert str(error).endswith("; and 980 more")
    fields = ",".join(f'"{i}":0' for i in range(1000))
    assert wrong(Decoder(SimilarRequest), b"{%b}" % fields.encode()).more == 1001 - MAX_FIELD_ERRORS


def test_error_of_a_large_body_has_the_first_wrong_field() -> None:
    body = json.dumps({"audioFeatures": FEATURES | {"energy": 7}, "artists": ["a" * 500] * 40, "x": 1}).encode()
    assert len(body) > MAX_FULLY_CHECKED_BYTES
    (result,) = wrong(Decoder(ClassifyRequest), body).field_errors
    assert (result.path, result.message) == ("audioFeatures.energy", "expected float <= 1.0")


@pytest.mark.parametrize("number", [b"9" * 101, b"0." + b"7" * 101, b"-1e" + b"0" * 101])
def test_a_large_body_has_no_numbers_that_take_long(number: bytes) -> None:
    """Python and msgspec round a number of hundreds of digits in microseconds: thousands of them hold others."""
    fill = b" " * MAX_VALUES
    assert "expected at most 100 digits in a row, found 101" in str(wrong(Decoder(list[object]), fill + number))
    assert Decoder(list[float]).decode(b"[" + number[:-1] + b"]" + fill)


@pytest.mark.parametrize("digits", [5_000, 40_000])
def test_numbers_out_of_range_are_wrong_fields(digits: int) -> None:
    (result,) = wrong(Decoder(SimilarRequest), b'{"trackId":"a","limit":%b}' % (b"9" * digits)).field_errors
    assert (result.path, result.message) == ("limit", "integer value out of range")


@pytest.mark.parametrize("size", [500, 5_000, 1_000_000])
@pytest.mark.parametrize(
    "form", ['{"%s":1}', '{"userId":"%s"}', '{"userId":"a","timeRange":"%s"}', '{"context":{"%s":1}}']
)
def test_long_values_are_shortened_in_messages(form: str, size: int) -> None:
    refused = refused_by(Decoder(RecommendRequest), (form % ("x" * size)).encode())
    assert (refused is None) == (size == 500 and 'userId":"%' in form)  # which an id may have
    if isinstance(refused, RequestError):
        assert all(len(item.path) + len(item.message) < 500 for item in refused.field_errors)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
names = st.sampled_from(
    [*ClassifyRequest.__struct_fields__, "trackId", "userId", "excludeIds", "history", "limit"]
) | st.text(max_size=5)
wild = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(names, inner, max_size=5), max_leaves=20
)


@settings(max_examples=300, deadline=None)
@given(wild.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=50))
def test_any_body_is_decoded_or_refused_with_a_short_message(body: bytes) -> None:
    for decoder in DECODERS:
        refused = refused_by(decoder, body)
        if isinstance(refused, RequestError):
            assert 1 <= len(refused.field_errors) <= MAX_FIELD_ERRORS
            assert len(msgspec.json.encode(refused.field_errors)) < 20_000
        elif refused:
            assert (refused.status_code, len(refused.detail) < 300) == (400, True)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_gzip_body_is_unpacked_within_the_limit_or_refused(noise: bytes, place: int) -> None:
    for body in (noise, PACKED[: place % len(PACKED)] + noise, gzip.compress(noise * 10, mtime=0)):
        try:
            length = len(read(body, encoding=b"gzip"))
        except HTTPException as error:
            status, length = error.status_code, 0
        else:
            status = 200
        assert (status in (200, 400, 413), length <= 1000) == (True, True)
