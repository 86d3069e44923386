"""Mutations of ONNX files below the level of graphs: their bytes, and their fields as protocol buffers write them."""

from collections.abc import Iterator

from musix_runtime.models.parts import LAYOUT
from tests.fuzz.draft import Draft
from tests.fuzz.graphs import Rng, pick


def random_bytes(draft: Draft, rng: Rng) -> str:
    """Change the bytes of the file: flip bits, truncate, extend, repeat."""
    name = str(rng.choice(list(LAYOUT.graphs)))
    content = bytearray(draft[name])
    how, place = pick(rng, ("flip", "flip", "cut", "bytes", "repeat")), int(rng.integers(len(content)))
    if rng.random() < 0.3:
        place = min(place, int(rng.integers(200)))
    if how == "flip":
        content[place] ^= 1 << int(rng.integers(8))
    elif how == "cut":
        content = content[:place]
    elif how == "bytes":
        content[place : place + 4] = rng.bytes(4)
    else:
        content += content[place:]
    draft[name] = bytes(content)
    return f"{name}: {how} at {place}"


def wire(draft: Draft, rng: Rng) -> str:
    """A field somewhere in the nested messages, as on the wire: twice, gone, longer than its parent, another number or
    wire type, a group, a varint of ten bytes."""
    name = str(rng.choice(list(LAYOUT.graphs)))
    done: list[str] = []
    draft[name] = _rewired(draft[name], rng, done, 0)
    return f"{name}: {', '.join(done)}"


def _rewired(message: bytes, rng: Rng, done: list[str], depth: int) -> bytes:
    try:
        spans = list(_spans(message))
    except (IndexError, ValueError):
        spans = []
    if not spans:
        done.append(f"{depth} deep: random bytes")
        return rng.bytes(int(rng.integers(1, 20)))
    start, body, end, key = spans[int(rng.integers(len(spans)))]
    if key & 7 == 2 and end - body > 2 and rng.random() < 0.75:
        inner = _rewired(message[body:end], rng, done, depth + 1)
        return message[:start] + _varint(key) + _varint(len(inner)) + inner + message[end:]
    how = pick(rng, ("twice", "gone", "length", "number", "type", "group", "deep group", "varint", "overlong"))
    field, value, bare = message[start:end], message[body:end], key & ~7
    news = {
        "twice": field * 2,
        "gone": b"",
        "length": _varint(bare | 2) + _varint(pick(rng, (2**31, 2**40, 2**63, 1000))) + value,
        "number": _varint(key + 8) + message[start + len(_varint(key)) : end],
        "type": _varint(key ^ 1) + value,
        "group": _varint(bare | 3) + value,
        "deep group": _varint(bare | 3) * 10_000 + _varint(bare | 4) * 10_000,
        "varint": _varint(bare) + b"\xff" * 9 + b"\x01",
        "overlong": _varint(bare) + b"\x80" * 20 + b"\x01",
    }
    done.append(f"{depth} deep, field {key >> 3}: {how}")
    return message[:start] + news[how] + message[end:]


def _spans(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield (start, start of the value, end, key) of each field. Raises ValueError or IndexError for another format."""
    place = 0
    while place < len(message):
        start = place
        key, place = _read_varint(message, place)
        size = {1: 8, 5: 4}.get(key & 7, 0)
        if key & 7 == 2:
            size, place = _read_varint(message, place)
        elif key & 7 == 0:
            size = _read_varint(message, place)[1] - place
        elif not size:
            raise ValueError(key)
        if key < 8 or place + size > len(message):
            raise ValueError(key)
        yield start, place, place + size, key
        place += size


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place


def _varint(value: int) -> bytes:
    result = b""
    while value > 127:
        result, value = result + bytes([value & 127 | 128]), value >> 7
    return result + bytes([value])
