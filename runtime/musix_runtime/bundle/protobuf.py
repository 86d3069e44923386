"""A strict decoder of protobuf's wire format, driven by a table of the fields that a message may have.

It refuses unknown fields, groups, packed numbers, repeated singular fields, and lengths beyond the message. So another
parser cannot read the same bytes differently.
Source: https://protobuf.dev/programming-guides/encoding/.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

INT, FLOAT, BYTES = "int", "float", "bytes"
MAX_MESSAGES = 2**14  # in one message, at any depth
MAX_VALUES = 2**20  # in one message and the messages in it; a run of numbers is one value
MAX_NUMBERS = 2**22  # of repeated fields in all
_MAX_RUN = 65_536  # numbers that are decoded at once, which limits the memory
_WIRE_TYPES = {INT: 0, BYTES: 2, FLOAT: 5}
_MAX_VARINT_BYTES = 10
_MAX_SHORT = 127  # bytes of a string whose length is one byte


class Field(NamedTuple):
    """A field of a message. `kind` is INT, FLOAT, BYTES, or the fields of a message."""

    name: str
    kind: "str | Mapping[int, Field]"
    repeated: bool = False


Fields = Mapping[int, Field]


def decode(data: bytes, fields: Fields, place: str) -> dict[str, Any]:
    """Return the values of the message in `data` by field name.

    Repeated numbers are arrays (int64 or float32), other repeated fields are lists; both may be empty. A missing
    singular field has no entry. Raises ValueError, whose message begins with `place` and the field.
    """
    return _Decoder(data).message(0, len(data), fields, place)


class _Decoder:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.values_left = MAX_VALUES
        self.messages_left = MAX_MESSAGES
        self.numbers_left = MAX_NUMBERS

    def message(self, position: int, end: int, fields: Fields, place: str) -> dict[str, Any]:
        self.messages_left -= 1
        if self.messages_left < 0:
            raise ValueError(f"{place}: expected at most {MAX_MESSAGES:,} messages in total, found more")
        repeated: dict[str, list[Any]] = {field.name: [] for field in fields.values() if field.repeated}
        values: dict[str, Any] = {}
        while position < end:
            field, start = self.field(position, end, fields, place)
            if field.repeated and field.kind in (INT, FLOAT):
                numbers, position = self.run(position, start, end, field, place)
                self.numbers_left -= len(numbers)
                if self.numbers_left < 0:
                    raise ValueError(f"{place}.{field.name}: expected at most {MAX_NUMBERS:,} numbers, found more")
                repeated[field.name].append(numbers)
                continue
            if field.repeated and field.kind == BYTES:
                strings, position = self.short_strings(position, start, end, place)
                repeated[field.name] += strings
                if strings:
                    continue
            if field.name in values:
                raise ValueError(f"{place}.{field.name}: expected one value, found two")
            value, position = self.value(start, end, field, place)
            if field.repeated:
                repeated[field.name].append(value)
            else:
                values[field.name] = value
        for field in fields.values():
            if field.repeated:
                values[field.name] = _concatenate(repeated[field.name], field.kind)
        return values

    def field(self, position: int, end: int, fields: Fields, place: str) -> tuple[Field, int]:
        """Return the field at `position`, and the position of its value."""
        self.count(1, place)
        tag, start = self.varint(position, end, place)
        field = fields.get(tag >> 3)
        if field is None:
            names = ", ".join(f"{number} ({field.name})" for number, field in fields.items())
            raise ValueError(f"{place}: expected the fields {names}, found {tag >> 3}")
        expected = _WIRE_TYPES[field.kind if isinstance(field.kind, str) else BYTES]
        if tag & 7 != expected:
            raise ValueError(f"{place}.{field.name}: expected wire type {expected}, found {tag & 7}")
        return field, start

    def count(self, values: int, place: str) -> None:
        """Count values. Raises ValueError beyond the bound."""
        self.values_left -= values
        if self.values_left < 0:
            raise ValueError(f"{place}: expected at most {MAX_VALUES:,} values in total, found more")

    def value(self, start: int, end: int, field: Field, place: str) -> tuple[Any, int]:
        """Return a value, and the position of the next field."""
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

    def short_strings(self, position: int, start: int, end: int, place: str) -> tuple[list[bytes], int]:
        """Return the strings of up to 127 bytes in consecutive fields of one number, and the end position."""
        data, tag, head = self.data, self.data[position:start], start - position + 1
        found = list[bytes]()
        while data.startswith(tag, position, end) and len(found) <= self.values_left:
            content = position + head
            stop = content + data[content - 1] if content <= end else end + 1
            if stop > end or stop - content > _MAX_SHORT:
                break
            found.append(data[content:stop])
            position = stop
        self.count(len(found), place)
        return found, position

    def varint(self, start: int, end: int, place: str) -> tuple[int, int]:
        """Return a number of variable length, and the position after it."""
        value = 0
        for i, byte in enumerate(self.data[start : min(start + _MAX_VARINT_BYTES, end)]):
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80 and value < 1 << 64:
                return value, start + i + 1
        raise ValueError(f"{place}: expected a number of at most 64 bits at byte {start:,}, found none")

    def run(self, position: int, start: int, end: int, field: Field, place: str) -> tuple[NDArray[Any], int]:
        """Return the numbers of consecutive fields of one number from `position` on, and the end position."""
        tag = re.escape(self.data[position:start])
        number = rb"[\x80-\xff]{0,9}+[\x00-\x7f]" if field.kind == INT else rb"[\x00-\xff]{4}"
        match = re.compile(rb"(?:%b%b){1,%d}+" % (tag, number, _MAX_RUN)).match(self.data, position, end)
        if match is None:
            raise ValueError(f"{place}.{field.name}: expected a number at byte {start:,}, found none")
        raw = np.frombuffer(match[0], np.uint8)
        if field.kind == INT:
            return _varints_after_tags(raw), match.end()
        records = raw.reshape(-1, start - position + 4)
        return np.ascontiguousarray(records[:, -4:]).view("<f4")[:, 0], match.end()


def _concatenate(values: list[Any], kind: object) -> Any:
    if kind not in (INT, FLOAT):
        return values
    return np.concatenate([np.empty(0, np.int64 if kind == INT else np.float32), *values])


def _varints_after_tags(raw: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the numbers of consecutive varints, of which every other one, from the first on, is a tag."""
    ends = np.flatnonzero(raw < 0x80)
    starts, sizes = ends[::2] + 1, ends[1::2] - ends[::2]
    numbers = np.zeros(len(starts), np.uint64)
    for i in range(int(sizes.max())):
        longer = sizes > i
        bits = (raw[starts[longer] + i] & np.uint8(0x7F)).astype(np.uint64)
        numbers[longer] |= bits << np.uint64(7 * i)
    return numbers.view(np.int64)
