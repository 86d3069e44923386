"""A strict reader of protobuf's wire format, driven by a table of the fields that a message may have.

Everything else is refused: unknown fields, groups, packed numbers, a singular field that comes twice, lengths beyond
the message. So two parsers cannot read the same bytes differently.
Source: https://protobuf.dev/programming-guides/encoding/.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

INT, FLOAT, BYTES = "int", "float", "bytes"
MAX_VALUES = 2**20  # in one message with all that it holds, runs of numbers apart
_MAX_RUN = 65_536  # numbers decoded at a time, so that decoding needs little memory
_WIRE_TYPES = {INT: 0, BYTES: 2, FLOAT: 5}
_MAX_VARINT_BYTES = 10


class Field(NamedTuple):
    """A field of a message: its name, its kind (INT, FLOAT, BYTES, or the fields of a message), whether it repeats."""

    name: str
    kind: "str | Mapping[int, Field]"
    repeated: bool = False


Fields = Mapping[int, Field]


def decode(data: bytes, fields: Fields, place: str) -> dict[str, Any]:
    """Return the values of the message in `data` by field name.

    Repeated numbers are arrays (int64 or float32), other repeated fields are lists; both may be empty. A singular field
    that is not there is left out. Raises ValueError that names `place` and the field.
    """
    return _Decoder(data).message(0, len(data), fields, place)


class _Decoder:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.values_left = MAX_VALUES

    def message(self, position: int, end: int, fields: Fields, place: str) -> dict[str, Any]:
        repeated: dict[str, list[Any]] = {field.name: [] for field in fields.values() if field.repeated}
        found: dict[str, Any] = {}
        while position < end:
            field, start = self.field(position, end, fields, place)
            if field.repeated and field.kind in (INT, FLOAT):
                numbers, position = self.run(position, start, end, field, place)
                repeated[field.name].append(numbers)
                continue
            if field.repeated and field.kind == BYTES:
                position = self.short_strings(position, end, repeated[field.name])
                if position > start:
                    continue
            if field.name in found:
                raise ValueError(f"{place}.{field.name}: expected it once, found it twice")
            value, position = self.value(start, end, field, place)
            if field.repeated:
                repeated[field.name].append(value)
            else:
                found[field.name] = value
        for field in fields.values():
            if field.repeated:
                found[field.name] = _joined(repeated[field.name], field.kind)
        return found

    def field(self, position: int, end: int, fields: Fields, place: str) -> tuple[Field, int]:
        """Return the field at `position`, and where its value starts."""
        self.values_left -= 1
        if self.values_left < 0:
            raise ValueError(f"{place}: expected at most {MAX_VALUES:,} values in all, found more")
        tag, start = self.varint(position, end, place)
        field = fields.get(tag >> 3)
        if field is None:
            names = ", ".join(f"{number} ({field.name})" for number, field in fields.items())
            raise ValueError(f"{place}: expected the fields {names}, found {tag >> 3}")
        expected = _WIRE_TYPES[field.kind if isinstance(field.kind, str) else BYTES]
        if tag & 7 != expected:
            raise ValueError(f"{place}.{field.name}: expected wire type {expected}, found {tag & 7}")
        return field, start

    def value(self, start: int, end: int, field: Field, place: str) -> tuple[Any, int]:
        """Return a value, and where the next field starts."""
        if field.kind == INT:
            number, stop = self.varint(start, end, place)
            return number - (1 << 64 if number >> 63 else 0), stop
        if field.kind == FLOAT:
            length = 4
        else:
            length, start = self.varint(start, end, place)
        stop = start + length
        if stop > end:
            raise ValueError(f"{place}.{field.name}: expected to end by byte {end:,}, found byte {stop:,}")
        if isinstance(field.kind, str):
            content = self.data[start:stop]
            return (content if field.kind == BYTES else float(np.frombuffer(content, "<f4")[0])), stop
        return self.message(start, stop, field.kind, f"{place}.{field.name}"), stop

    def short_strings(self, position: int, end: int, found: list[bytes]) -> int:
        """Append what is in a run of one field of up to 127 bytes each, and return where it ends."""
        data, tag, before = self.data, self.data[position], len(found)
        while position + 1 < end and data[position] == tag < 0x80 and len(found) - before < self.values_left:
            length = data[position + 1]
            if length > 0x7F or position + 2 + length > end:
                break
            found.append(data[position + 2 : position + 2 + length])
            position += 2 + length
        self.values_left -= len(found) - before
        return position

    def varint(self, start: int, end: int, place: str) -> tuple[int, int]:
        value = 0
        for i, byte in enumerate(self.data[start : min(start + _MAX_VARINT_BYTES, end)]):
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80 and value < 1 << 64:
                return value, start + i + 1
        raise ValueError(f"{place}: expected a number of at most 64 bits at byte {start:,}, found none")

    def run(self, position: int, start: int, end: int, field: Field, place: str) -> tuple[NDArray[Any], int]:
        """Return the numbers of a field that comes again and again from `position` on, and where they end."""
        tag = re.escape(self.data[position:start])
        number = rb"[\x80-\xff]{0,9}+[\x00-\x7f]" if field.kind == INT else rb"[\x00-\xff]{4}"
        match = re.compile(rb"(?:%b%b){1,%d}+" % (tag, number, _MAX_RUN)).match(self.data, position, end)
        if match is None:
            raise ValueError(f"{place}.{field.name}: expected a number at byte {start:,}, found none")
        raw = np.frombuffer(match[0], np.uint8)
        if field.kind == INT:
            return _varints(raw)[1::2], match.end()  # every other one is the tag
        records = raw.reshape(-1, start - position + 4)
        return np.ascontiguousarray(records[:, -4:]).view("<f4")[:, 0], match.end()


def _joined(values: list[Any], kind: object) -> Any:
    if kind not in (INT, FLOAT):
        return values
    return np.concatenate([np.empty(0, np.int64 if kind == INT else np.float32), *values])


def _varints(raw: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Decode varints that follow one another."""
    ends = np.flatnonzero(raw < 0x80)
    starts = np.append(0, ends[:-1] + 1)
    place = np.arange(len(raw)) - np.repeat(starts, ends - starts + 1)
    shifted = (raw & np.uint8(0x7F)).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.asarray(np.add.reduceat(shifted, starts), np.uint64).view(np.int64)
