"""Request bodies: read, unpacked and decoded, with every step bounded before it is taken."""

import asyncio
import re
import zlib
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from musix_runtime.errors import RequestError, Violation, shorten
from musix_runtime.schemas import BATCH_LIMIT, ClassifyRequest, parse, violation
from musix_runtime.settings import Settings

INLINE_BYTES = 8 * 1024  # of a body that is answered on the event loop; larger ones are answered by a thread
NAMED_BYTES = 16 * 1024  # of a body of which every wrong field is named; of larger ones the first is
MAX_VALUES = 50_000  # in a body; msgspec makes as many objects within 10 ms
UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
COMMA = ord(",")
GZIP_FORMAT = 31  # zlib's window bits for a gzip header and trailer
T = TypeVar("T")
_JSON_TYPE = re.compile(r"application/([a-z0-9!#$&^_.+-]+\+)?json")  # also those of RFC 6839
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


async def read_body(scope: Scope, receive: Receive, settings: Settings) -> bytes:
    """Read the whole body and unpack it. Raises HTTPException 415 when it is not said to be JSON in UTF-8, plain or by
    gzip; 400 when it is not gzip though it is said to be; 413 when it is too large; 408 when it takes too long."""
    _check_type(_header(scope, b"content-type"))
    unpack = _unpacker(_header(scope, b"content-encoding"), settings.body_limit)
    body, received, more = bytearray(), 0, True
    try:
        async with asyncio.timeout(settings.body_seconds):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                part, more = message.get("body", b""), message.get("more_body", False)
                received += len(part)
                body += unpack.add(part) if unpack else part
                if max(received, len(body)) > settings.body_limit:
                    raise HTTPException(413, f"body: expected at most {settings.body_limit:,} bytes, found more")
    except TimeoutError as error:
        expected = f"body: expected all of it within {settings.body_seconds:g} s, found {received:,} bytes"
        raise HTTPException(408, expected, {"connection": "close"}) from error
    if unpack:
        unpack.finish()
    return bytes(body.removeprefix(UTF8_MARK))


def _header(scope: Scope, name: bytes) -> bytes:
    """Return the values of a header; one that comes twice is a list, as RFC 9110 has it."""
    return b", ".join([value for key, value in scope["headers"] if key == name])


def _check_type(header: bytes) -> None:
    if header == b"application/json":
        return
    text = header.decode("latin-1")
    media_type, *parameters = [each.strip().lower() for each in text.split(";")]
    if not _JSON_TYPE.fullmatch(media_type):
        raise HTTPException(415, f"content-type: expected application/json, found {shorten(text) or 'nothing'}")
    for name, _, value in (each.partition("=") for each in parameters):
        if name.strip() == "charset" and value.strip(' "') not in ("utf-8", "utf8"):
            raise HTTPException(415, f"content-type: expected charset=utf-8, found {shorten(text)}")


def _unpacker(header: bytes, limit: int) -> "_Gzip | None":
    encoding = header.decode("latin-1").strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip"):
        return _Gzip(limit)
    message = f"content-encoding: expected gzip or none, found {shorten(encoding)}"
    raise HTTPException(415, message, {"accept-encoding": "gzip"})


class _Gzip:
    """Unpacks one gzip stream (RFC 1952), to no more than one byte above the limit."""

    def __init__(self, limit: int) -> None:
        self._stream = zlib.decompressobj(GZIP_FORMAT)
        self._room = limit + 1

    def add(self, part: bytes) -> bytes:
        """Return what a part of the body unpacks to, as far as there is room."""
        if self._stream.eof and part:
            raise _not_gzip("nothing after its end, found more bytes")
        try:
            unpacked = self._stream.decompress(part, self._room) if self._room else b""
        except zlib.error as error:
            raise _not_gzip(f"a stream that can be unpacked, found: {shorten(str(error))}") from error
        if self._stream.unused_data:
            raise _not_gzip("nothing after its end, found more bytes")
        self._room -= len(unpacked)
        return unpacked

    def finish(self) -> None:
        """Raise HTTPException 400 when the stream has not come to its end."""
        if not self._stream.eof:
            raise _not_gzip("a whole stream, found only its beginning")


def _not_gzip(message: str) -> HTTPException:
    return HTTPException(400, f"body, by its content-encoding gzip: expected {message}")


class Decoder(Generic[T]):
    """Decodes bodies into messages of one type. It counts values before it looks at them."""

    def __init__(self, type_: type[T]) -> None:
        self._type = type_
        self._decoder = msgspec.json.Decoder(type_)

    def decode(self, body: bytes) -> T:
        """Return the message. Raises HTTPException 400 for what is not JSON; RequestError that names each wrong field,
        or the first one if the body is larger than `NAMED_BYTES`."""
        _check_values(body)
        try:
            return self._decoder.decode(body)
        except _NOT_JSON as error:
            if len(body) > NAMED_BYTES:
                raise _failure(body, error) from error
            return self._decode_slowly(body, error)

    def _decode_slowly(self, body: bytes, first: Exception) -> T:
        try:
            raw = msgspec.json.decode(body)
        except msgspec.ValidationError:  # a number beyond every range, of which the typed decoder knows the place
            raise _failure(body, first) from first
        except _NOT_JSON as error:
            raise _failure(body, error) from error
        return self._parse(raw)

    def _parse(self, raw: Any) -> T:
        return parse(raw, self._type)


class BatchDecoder(Decoder[list[ClassifyRequest]]):
    """Decodes bodies into the requests of a batch, all of them or none."""

    def __init__(self) -> None:
        super().__init__(list[ClassifyRequest])

    def decode(self, body: bytes) -> list[ClassifyRequest]:
        """Return the requests. Raises like `Decoder.decode`, and RequestError for more than `BATCH_LIMIT`."""
        requests = super().decode(body)
        if len(requests) > BATCH_LIMIT:
            raise _not_a_batch(f"{len(requests):,}")
        return requests

    def _parse(self, raw: Any) -> list[ClassifyRequest]:
        if not isinstance(raw, list):
            raise _not_a_batch("none")
        if len(raw) > BATCH_LIMIT:
            raise _not_a_batch(f"{len(raw):,}")
        requests: list[ClassifyRequest] = []
        violations: list[Violation] = []
        for i, item in enumerate(raw):
            try:
                requests.append(parse(item, ClassifyRequest, f"[{i}]"))
            except RequestError as error:
                violations += error.violations
        if violations:
            raise RequestError(violations)
        return requests


def _not_a_batch(found: str) -> RequestError:
    return RequestError([Violation("$", f"expected an array of at most {BATCH_LIMIT:,} tracks, found {found}")])


def _check_values(body: bytes) -> None:
    """Raise RequestError when the body has too many values; a comma inside of a text counts like one between two."""
    if len(body) <= MAX_VALUES:
        return  # it cannot have as many
    commas = np.count_nonzero(np.frombuffer(body, np.uint8) == COMMA)
    if commas >= MAX_VALUES:
        message = f"expected at most {MAX_VALUES:,} values in a request, found about {commas + 1:,}"
        raise RequestError([Violation("$", message)])


def _failure(body: bytes, error: Exception) -> RequestError | HTTPException:
    if isinstance(error, msgspec.ValidationError):
        return RequestError([violation(error)])
    if body.startswith(UTF16_MARKS) or b"\0" in body[:4]:
        return HTTPException(400, "body: expected JSON in UTF-8, found UTF-16 or UTF-32")
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        return HTTPException(400, f"body: expected JSON in UTF-8, found byte 0x{byte:02x} where UTF-8 has none")
    return HTTPException(400, f"body: expected JSON, found: {shorten(str(error))}")
