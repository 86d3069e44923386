"""Request bodies: read, unpacked and decoded. Every step checks its limits before it runs."""

import asyncio
import json
import re
import zlib
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from musix_runtime.errors import FieldError, RequestError, shorten
from musix_runtime.feedback.schemas import Envelope, EventsRequest
from musix_runtime.parsing import field_error, parse
from musix_runtime.schemas import BATCH_LIMIT, ClassifyRequest
from musix_runtime.settings import Settings

INLINE_BYTES = 8 * 1024  # largest body that is answered on the event loop; threads answer larger ones
MAX_FULLY_CHECKED_BYTES = (
    16 * 1024
)  # largest body of which all wrong fields are reported; of larger ones only the first
MAX_VALUES = 50_000  # in a body; msgspec decodes that many within 10 ms
MAX_NUMBER_DIGITS = 100  # in a row, of a large body; a number of hundreds takes long to round
UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
BEFORE_VALUES = b",[{"  # a value follows one of these, or is the only one
MAX_DIGITS = 18  # of an integer; Python reads none with thousands of digits
GZIP_FORMAT = 31  # zlib's window bits for a gzip header and trailer
T = TypeVar("T")
_JSON_TYPE = re.compile(r"application/([a-z0-9!#$&^_.+-]+\+)?json")  # also those of RFC 6839
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


async def read_body(scope: Scope, receive: Receive, settings: Settings) -> bytes:
    """Read the whole body and unpack it.

    Raises HTTPException 415 for another content type than JSON in UTF-8, another encoding than gzip, or another
    transfer encoding than chunked; 400 when the body should be gzip and is not; 413 when it is too large; 408 when it
    takes too long.
    """
    _check_type(_header(scope, b"content-type"))
    _check_coding(_header(scope, b"transfer-encoding"))
    unpack = _unpacker(_header(scope, b"content-encoding"), settings.max_body_bytes)
    _check_length(scope, settings.max_body_bytes)
    body, received, more = bytearray(), 0, True
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                part, more = message.get("body", b""), message.get("more_body", False)
                received += len(part)
                body += unpack.add(part) if unpack else part
                if max(received, len(body)) > settings.max_body_bytes:
                    raise _too_large(settings.max_body_bytes)
    except TimeoutError as error:
        expected = f"body: expected all of it within {settings.body_timeout_s:g} s, found {received:,} bytes"
        raise HTTPException(408, expected, {"connection": "close"}) from error
    if unpack:
        unpack.finish()
    return bytes(body.removeprefix(UTF8_MARK))


def _header(scope: Scope, name: bytes) -> bytes:
    """Return the value of a header; the values of a repeated header are joined as a list (RFC 9110, section 5.3)."""
    return b", ".join([value for key, value in scope["headers"] if key == name])


def _check_type(header: bytes) -> None:
    if header == b"application/json":
        return
    text = header.decode("latin-1")
    media_type, *parameters = [part.strip().lower() for part in text.split(";")]
    if not _JSON_TYPE.fullmatch(media_type):
        raise HTTPException(415, f"content-type: expected application/json, found {shorten(text) or 'nothing'}")
    for name, _, value in (parameter.partition("=") for parameter in parameters):
        if name.strip() == "charset" and value.strip(' "') not in ("utf-8", "utf8"):
            raise HTTPException(415, f"content-type: expected charset=utf-8, found {shorten(text)}")


def _check_coding(header: bytes) -> None:
    """Raise HTTPException 415 for a coding that the server does not decode."""
    coding = header.decode("latin-1").strip().lower()
    if coding not in ("", "chunked"):
        raise HTTPException(415, f"transfer-encoding: expected chunked or none, found {shorten(coding)}")


def _check_length(scope: Scope, limit: int) -> None:
    """Raise HTTPException 413 for a length above the limit, before a server would send `100 Continue`.

    A client that waits for that sends no body, so its connection is of no more use.
    """
    length = _header(scope, b"content-length")
    if length.isdigit() and (len(length) > MAX_DIGITS or int(length) > limit):
        raise _too_large(limit, {"connection": "close"} if _header(scope, b"expect") else None)


def _too_large(limit: int, headers: dict[str, str] | None = None) -> HTTPException:
    return HTTPException(413, f"body: expected at most {limit:,} bytes, found more", headers)


def _unpacker(header: bytes, limit: int) -> "_Gzip | None":
    encoding = header.decode("latin-1").strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip"):
        return _Gzip(limit)
    message = f"content-encoding: expected gzip or none, found {shorten(encoding)}"
    raise HTTPException(415, message, {"accept-encoding": "gzip"})


class _Gzip:
    """Unpacks one gzip stream (RFC 1952), up to one byte above the limit."""

    def __init__(self, limit: int) -> None:
        self._stream = zlib.decompressobj(GZIP_FORMAT)
        self._room = limit + 1

    def add(self, part: bytes) -> bytes:
        """Return the unpacked bytes of a part of the body, up to the limit."""
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
        """Raise HTTPException 400 when the stream is not complete."""
        if not self._stream.eof:
            raise _not_gzip("a whole stream, found only its beginning")


def _not_gzip(message: str) -> HTTPException:
    return HTTPException(400, f"body, by its content-encoding gzip: expected {message}")


class Decoder(Generic[T]):
    """Decodes bodies into requests of one type. It counts the values before it decodes them."""

    def __init__(self, type_: type[T]) -> None:
        self._type = type_
        self._decoder = msgspec.json.Decoder(type_)

    def decode(self, body: bytes) -> T:
        """Return the request.

        Raises HTTPException 400 for a body that is not JSON, and RequestError with all wrong fields, or only the
        first one if the body is larger than `MAX_FULLY_CHECKED_BYTES`.
        """
        _check_values(body)
        try:
            return self._decoder.decode(body)
        except _NOT_JSON as error:
            if len(body) > MAX_FULLY_CHECKED_BYTES:
                raise _error(body, error) from error
            return self._find_errors(body, error)

    def _find_errors(self, body: bytes, first: Exception) -> T:
        try:
            raw = msgspec.json.decode(body)
        except msgspec.ValidationError:  # a number out of range: only the typed decoder knows its path
            raise _error(body, first) from first
        except _NOT_JSON as error:
            raise _error(body, error) from error
        return self._parse(raw)

    def _parse(self, raw: Any) -> T:
        return parse(raw, self._type)


class EventsDecoder(Decoder[Envelope]):
    """Decodes bodies of events, so that a wrong event does not refuse the others.

    Texts may have halves of characters, such as "\\ud800", as JSON may (RFC 8259, section 8.2): msgspec refuses such a
    body as a whole, and here the caller refuses what it cannot encode.
    """

    def __init__(self) -> None:
        super().__init__(Envelope)
        self._right = msgspec.json.Decoder(EventsRequest)

    def decode(self, body: bytes) -> Envelope:
        """Return the events, and decoded JSON for each if one of them is wrong. Raises like `Decoder.decode`."""
        _check_values(body)
        try:
            right = self._right.decode(body)
            return Envelope(right.sent_at, right.events)
        except _NOT_JSON:
            pass
        try:
            return self._parse(_lenient_json(body))
        except UnicodeEncodeError as error:  # half of a character beside the events
            raise _error(body, error) from error


def _lenient_json(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), parse_int=_number, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _error(body, error) from error


def _number(digits: str) -> float:
    """Return an integer, or a float for a longer one: Python needs long for integers of thousands of digits."""
    return int(digits) if len(digits) <= MAX_DIGITS else float(digits)


def _refuse_constant(name: str) -> None:
    """Raise ValueError: JSON has no NaN and Infinity, Python's reader takes them."""
    raise ValueError(name)


class BatchDecoder(Decoder[list[ClassifyRequest]]):
    """Decodes bodies into the requests of a batch: all of them or none."""

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
        field_errors: list[FieldError] = []
        for i, item in enumerate(raw):
            try:
                requests.append(parse(item, ClassifyRequest, f"[{i}]"))
            except RequestError as error:
                field_errors += error.field_errors
        if field_errors:
            raise RequestError(field_errors)
        return requests


def _not_a_batch(found: str) -> RequestError:
    return RequestError([FieldError("$", f"expected an array of at most {BATCH_LIMIT:,} tracks, found {found}")])


def _check_values(body: bytes) -> None:
    """Raise RequestError when the body may take long to decode, by too many values or by numbers of too many digits.
    What is inside of a string counts as well."""
    if len(body) <= MAX_VALUES:
        return  # it cannot have more values than bytes
    letters = np.frombuffer(body, np.uint8)
    found = 1 + sum(np.count_nonzero(letters == letter) for letter in BEFORE_VALUES)
    if found > MAX_VALUES:
        message = f"expected at most {MAX_VALUES:,} values in a request, found about {found:,}"
        raise RequestError([FieldError("$", message)])
    others = np.flatnonzero(letters - np.uint8(ord("0")) > 9)  # smaller letters than 0 wrap around
    longest = np.diff(others, prepend=-1, append=len(letters)).max() - 1
    if longest > MAX_NUMBER_DIGITS:
        message = f"expected at most {MAX_NUMBER_DIGITS} digits in a row, found {longest:,}"
        raise RequestError([FieldError("$", message)])


def _error(body: bytes, error: Exception) -> RequestError | HTTPException:
    if isinstance(error, msgspec.ValidationError):
        return RequestError([field_error(error)])
    if body.startswith(UTF16_MARKS) or b"\0" in body[:4]:
        return HTTPException(400, "body: expected JSON in UTF-8, found UTF-16 or UTF-32")
    try:
        body.decode()
    except UnicodeDecodeError as not_utf8:
        byte = body[not_utf8.start]
        return HTTPException(400, f"body: expected JSON in UTF-8, found byte 0x{byte:02x} where UTF-8 has none")
    return HTTPException(400, f"body: expected JSON, found: {shorten(str(error))}")
