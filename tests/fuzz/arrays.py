"""Mutations of `.npy` files: values, keys, headers, lengths."""

import re

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.parts import LAYOUT
from tests.fuzz.draft import Draft

FLOATS = (np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -1.0, 0.0, 1.0, 2.0, 1e6, -1e6, 999_999.0)
KEYS = [name for name, array in LAYOUT.arrays.items() if array.dtype == "S"]
NUMBERS = [name for name in LAYOUT.arrays if name not in KEYS]
OFFSETS = [name for name in NUMBERS if name.endswith("offsets.npy")]
Rng = np.random.Generator


def numbers(draft: Draft, rng: Rng) -> str:
    """Set extreme values at one position, in a run, a row, a column, or everywhere."""
    name = str(rng.choice(NUMBERS))
    array = draft.array(name)
    if not array.size:
        return f"{name}: empty"
    value = _extreme(array, draft, rng)
    where = str(rng.choice(["place", "first", "last", "run", "row", "column", "all"]))
    flat, start = array.reshape(-1), int(rng.integers(array.size))
    areas = {"place": slice(start, start + 1), "first": slice(1), "last": slice(-1, None), "all": slice(None)}
    if where == "row":
        array[int(rng.integers(len(array)))] = value
    elif where == "column":
        array[..., int(rng.integers(array.shape[-1]))] = value
    else:
        flat[areas.get(where, slice(start, start + 50))] = value
    draft.set_array(name, array)
    return f"{name}: {value} ({where} {start})"


def _extreme(array: NDArray, draft: Draft, rng: Rng) -> object:
    if array.dtype.kind == "f":
        return array.dtype.type(rng.choice(FLOATS))
    info, tracks = np.iinfo(array.dtype), draft.manifest["counts"]["tracks"]
    values = [info.min, info.max, -1, 0, 1, 2, tracks - 1, tracks, array.max(), int(array.max()) + 1, 2**31 - 1, 2**16]
    fits = [int(item) for item in values if info.min <= int(item) <= info.max]
    return array.dtype.type(fits[int(rng.integers(len(fits)))])


def order(draft: Draft, rng: Rng) -> str:
    """Reorder values: shuffle, reverse or sort them, swap or equalize adjacent ones, or set all to one of them."""
    name = str(rng.choice(list(LAYOUT.arrays)))
    array = draft.array(name)
    if len(array) < 2:
        return f"{name}: too short"
    how, place = (
        str(rng.choice(["shuffle", "reverse", "sort", "swap", "equal", "same"])),
        int(rng.integers(len(array) - 1)),
    )
    if how == "shuffle":
        rng.shuffle(array)
    elif how in ("reverse", "sort"):
        array = np.ascontiguousarray(array[::-1]) if how == "reverse" else np.sort(array, axis=0)
    elif how == "swap":
        array[[place, place + 1]] = array[[place + 1, place]]
    elif how == "equal":
        array[place + 1] = array[place]
    else:
        array[:] = array[place]
    draft.set_array(name, array)
    return f"{name}: {how} at {place}"


def offsets(draft: Draft, rng: Rng) -> str:
    """Set other valid offsets from 0 to the end: everything in one row, or random ones."""
    name = str(rng.choice(OFFSETS))
    array = draft.array(name)
    how = str(rng.choice(["all in the first", "all in the last", "random"]))
    if how == "random":
        array[1:-1] = np.sort(rng.integers(0, array[-1] + 1, len(array) - 2))
    else:
        array[1:-1] = array[-1] if how == "all in the first" else 0
    draft.set_array(name, array)
    return f"{name}: {how}"


def keys(draft: Draft, rng: Rng) -> str:
    """Set keys that are sorted, but not UTF-8, empty, with NUL or control characters, or very long."""
    name = str(rng.choice(KEYS))
    array = draft.array(name)
    place = int(rng.choice([0, len(array) // 2, len(array) - 1]))
    old = bytes(array[place])
    news = {
        "not UTF-8": old[:-1] + b"\xff", "cut UTF-8": old[:-1] + b"\xc3", "surrogate": old + b"\xed\xa0\x80",
        "empty": b"", "NUL inside": old + b"\0x", "NUL first": b"\0x", "last byte": b"\xff" * 3,
        "control": old + b"\r\n", "long": old + b"x" * 100_000, "uri": b"spotify:track:" + old,
    }  # fmt: skip
    what = str(rng.choice(list(news)))
    listed = [bytes(item) for item in array]
    listed[place] = news[what]
    if what == "long":
        listed = listed[: place + 1] if place else listed[:1]
        draft.set_array(name, np.array(listed[-1:] * len(array)))
    else:
        draft.set_array(name, np.array(sorted(listed) if rng.random() < 0.5 else listed))
    return f"{name}: {what} at {place}"


def header(draft: Draft, rng: Rng) -> str:
    """Change the header, with a right or wrong length."""
    name = str(rng.choice(list(LAYOUT.arrays)))
    content = draft[name]
    size = int.from_bytes(content[8:10], "little")
    text, data = content[10 : 10 + size].decode("latin-1").rstrip(), content[10 + size :]
    news = (
        text.replace("False", "True"), re.sub(r"'descr': '.*?'", "'descr': '|O'", text),
        re.sub(r"'descr': '.*?'", "'descr': '<f8'", text), re.sub(r"'descr': '.*?'", "'descr': '|S0'", text),
        re.sub(r"'descr': '.*?'", "'descr': '|V4'", text), re.sub(r"'descr': '.*?'", "'descr': [('a', '<f4')]", text),
        re.sub(r"'descr': '.*?'", "'descr': ('<f4', (2,))", text),
        re.sub(r"\(\d+", "(-1", text), re.sub(r"\(\d+", f"({2**62}", text), re.sub(r"\(\d+", f"({2**64}", text),
        re.sub(r"\(\d+", "(1e3", text), re.sub(r"\(\d+", "(True", text), re.sub(r"\(\d+.*?\)", "()", text),
        re.sub(r"'shape': \(.*?\)", "'shape': 800", text), text.replace("}", "'x': 1, }"), text[:-1], "", "None", "{}",
        "__import__('os').abort()", "(" * 3000, "[" * 60_000, "-" * 60_000 + "1", "9" * 60_000, "'" + "\\N{x}" * 9,
        "{'descr': '|S" + "9" * 5000 + "', 'fortran_order': False, 'shape': (800,), }", "\0" * 100, "\xff" * 100,
        text.replace("{", "{**{}, "), text + " " * 1000, text.replace("'descr'", "u'descr'"), text.replace(", ", ",\n"),
    )  # fmt: skip
    choice = int(rng.integers(len(news)))
    encoded = news[choice].encode("latin-1") + b"\n"
    version = bytes(rng.choice([[1, 0], [1, 0], [1, 0], [2, 0], [3, 0], [0, 0], [255, 255]]).astype(np.uint8))
    length = len(encoded) if rng.random() < 0.8 else int(rng.choice([0, 1, 255, 65_535]))
    draft[name] = b"\x93NUMPY" + version + min(length, 65_535).to_bytes(2, "little") + encoded + data
    return f"{name}: header {choice}, version {version[0]}, length {length}"


def contents(draft: Draft, rng: Rng) -> str:
    """Truncate, extend or empty the file, set random bytes, or use another array."""
    name = str(rng.choice(list(LAYOUT.arrays)))
    content, how = draft[name], str(rng.choice(["cut", "grow", "empty", "bytes", "other"]))
    place = int(rng.integers(len(content)))
    other = str(rng.choice(list(LAYOUT.arrays)))
    draft[name] = {
        "cut": content[:place],
        "grow": content + bytes(int(rng.choice([1, 4, 4096]))),
        "empty": b"",
        "bytes": content[:place] + rng.bytes(8) + content[place + 8 :],
        "other": draft[other],
    }[how]
    return f"{name}: {how} at {place}, {other}"


MUTATIONS = (numbers, numbers, numbers, order, offsets, keys, header, contents)
