"""Requests made of decoded JSON, and the check of those that a program made: both raise RequestError with the paths of
all wrong fields."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from musix_runtime.errors import FieldError, RequestError, shorten
from musix_runtime.schemas import ACTIONS, TIME_RANGES, TRAINED_MODELS

OPTIONS = {"timeRange": TIME_RANGES, "action": ACTIONS, "model": TRAINED_MODELS}  # of enumerations, by field
BYTES = (bytes, bytearray, memoryview)  # which are no text
NOT_TEXT = (*BYTES, date, datetime, time, timedelta, Decimal)  # which msgspec would make text of
NOT_LISTS = (str, *BYTES, Mapping, Set)  # which have no requests in an order
MAX_BITS = 8192  # of a number that is shown: Python refuses to show those of more than 4,300 digits
T = TypeVar("T")


def parse(raw: Any, type_: type[T], path: str = "") -> T:
    """Convert decoded JSON to a request. Raises RequestError with the paths of all wrong fields."""
    try:
        return msgspec.convert(raw, type_)
    except msgspec.ValidationError as error:
        errors = _field_errors(raw, type_, path) or [field_error(error, path)]
        raise RequestError(errors) from error


def check(request: T, type_: type[T], path: str = "") -> T:
    """Return a request if it has the types and ranges that it would need over HTTP. Raises RequestError, whatever the
    values are: they may contain themselves, or raise errors of any kind when they are looked at."""
    if not issubclass(type(request), type_):
        raise _refusal(path, f"expected {type_.__name__}, found {type(request).__name__}")
    try:
        return parse(msgspec.to_builtins(request, builtin_types=NOT_TEXT, enc_hook=_builtin), type_, path)
    except RequestError:
        raise
    except Exception as error:
        raise _refusal(path, f"expected values of JSON's types, found: {_describe(error)}") from error


def check_all(requests: Iterable[T], type_: type[T]) -> list[T]:
    """Return the requests of a batch: see `check`."""
    kind = type(requests)
    if issubclass(kind, NOT_LISTS) or not issubclass(kind, Iterable):
        raise _refusal("", f"expected a list of {type_.__name__}, found {kind.__name__}")
    return [check(request, type_, f"[{i}]") for i, request in enumerate(_each(requests, type_))]


def _each(requests: Iterable[T], type_: type[T]) -> Iterator[T]:
    """Yield the requests of a program. Raises RequestError for any error of its own on the way."""
    try:
        yield from requests
    except Exception as error:
        found = f"{type(requests).__name__}, which raises {type(error).__name__}"
        raise _refusal("", f"expected a list of {type_.__name__}, found {found}") from error


def _refusal(path: str, message: str) -> RequestError:
    return RequestError([FieldError(path or "$", message)])


def _builtin(value: Any) -> Any:
    """Return a number of numpy as one of Python. Its times are no numbers, though it makes numbers of some."""
    item = value.item() if isinstance(value, np.generic) else value
    is_time = isinstance(value, np.datetime64 | np.timedelta64)
    if item is value or isinstance(item, np.generic) or (is_time and not isinstance(item, NOT_TEXT)):
        raise _OtherTypeError(type(value).__name__)
    return item


class _OtherTypeError(Exception):
    """A value has a type that JSON does not have. The message is the type's name."""


def _describe(error: Exception) -> str:
    """Return what was found, by the error that it caused. Only the type of an error that is not ours can be trusted."""
    if isinstance(error, RecursionError):
        return "a value that contains itself, or too many values in each other"
    return str(error) if isinstance(error, _OtherTypeError) else f"a value that raises {type(error).__name__}"


def _field_errors(raw: Any, type_: Any, path: str) -> list[FieldError]:
    """Return the errors of all fields, as msgspec reports only the first one."""
    if not isinstance(raw, dict) or not (isinstance(type_, type) and issubclass(type_, Struct)):
        return []
    fields = {field_.encode_name: field_ for field_ in msgspec.structs.fields(type_)}
    unknown = f"unknown field; known are {', '.join(fields)}"
    errors = [FieldError(_join(path, shorten(str(name))), unknown) for name in raw if name not in fields]
    for name, expected in fields.items():
        if name not in raw:
            if expected.required:
                errors.append(FieldError(_join(path, name), "is required"))
            continue
        try:
            msgspec.convert(raw[name], expected.type)
        except msgspec.ValidationError as error:
            inner = _field_errors(raw[name], _struct(expected.type), _join(path, name))
            errors += inner or [field_error(error, _join(path, name), raw[name])]
    return errors


def _struct(type_: Any) -> Any:
    """Return the type in `Type | None`."""
    return next((option for option in getattr(type_, "__args__", ()) if option is not type(None)), type_)


def field_error(
    error: msgspec.ValidationError,
    path: str = "",
    value: Any = None,
    options: Mapping[str, Sequence[str]] = OPTIONS,
) -> FieldError:
    """Return the error of msgspec as one of `path` or a field below it. Long values of the request are shortened."""
    message, _, inner = str(error).partition(" - at `$")
    full_path = f"{path}{inner.rstrip('`')}".lstrip(".")
    if message.startswith("Invalid enum value"):
        *names, last = options[full_path.rpartition(".")[2]]
        message = f"Expected {', '.join(names)} or {last}" if names else f"Expected {last}"
    elif message.startswith("Invalid RFC3339 encoded datetime") or "with a timezone" in message:
        message = "Expected a time in RFC 3339, such as 2026-01-31T20:00:00Z"
    elif message.startswith("Invalid RFC3339"):
        message = "Expected a date that exists, YYYY-MM-DD"
    expected = shorten((message[:1].lower() + message[1:]).replace("`", "").replace(", got ", ", found "), 200)
    found = (
        f", found {_format_input(value)}" if "found" not in expected and isinstance(value, str | int | float) else ""
    )
    return FieldError(shorten(full_path, 200) or "$", expected + found)


def _format_input(value: str | float) -> str:
    if isinstance(value, str):
        return repr(shorten(value))
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return f"a number of {value.bit_length():,} bits"
    return shorten(repr(value))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
