"""Mutations of FAISS files: their fields by place, other kinds of indexes, cuts and random bytes."""

import struct
from collections.abc import Iterator
from functools import cache

import faiss
import numpy as np

from musix_runtime.models.parts import LAYOUT
from tests.fuzz.draft import Draft

Rng = np.random.Generator
Field = tuple[str, int, str]  # name, offset, format of `struct`
OTHERS = (
    "IDMap,Flat", "IDMap2,Flat", "IVF4,Flat", "IVF16,SQ8", "IVF16,SQfp16", "IVF4,PQ4x4", "HNSW8", "HNSW8,SQ8", "SQ8",
    "SQfp16", "SQ4", "SQ6", "LSH", "PCA8,Flat", "PCAR8,SQ8", "HNSW16", "IVF16_HNSW8,SQ8", "L2norm,Flat", "IMI2x4,Flat",
    "IVF4,Flat,RFlat", "IVF16_HNSW8,Flat", "ZnLattice3x8_4", "RQ4x4", "IVF4(IVF2,Flat),SQ8", "Pad64,Flat", "ITQ,LSH",
)  # fmt: skip


class _Reader:
    """A walk through a file of FAISS (impl/index_write.cpp) that notes where each field is."""

    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0
        self.fields: list[Field] = []

    def take(self, name: str, kind: str) -> int:
        (value,) = struct.unpack_from("<" + kind, self.content, self.place)
        self.fields.append((name, self.place, "<" + kind))
        self.place += struct.calcsize("<" + kind)
        return value

    def vector(self, name: str, width: int, kind: str) -> int:
        """Return a length and as many elements of `width` bytes."""
        size = self.take(f"{name}.size", "Q")
        if size:
            self.fields.append((f"{name}[0]", self.place, "<" + kind))
        self.place += size * width
        return size

    def index(self, name: str) -> None:
        magic = self.content[self.place : self.place + 4]
        self.take(f"{name}.magic", "I")
        for field, kind in (("d", "i"), ("ntotal", "q"), ("dummy", "q"), ("dummy", "q"), ("is_trained", "B")):
            self.take(f"{name}.{field}", kind)
        if self.take(f"{name}.metric", "i") > 1:
            self.take(f"{name}.metric_arg", "f")
        if magic == b"IxFI":
            self.vector(f"{name}.codes", 4, "f")
        elif magic == b"IwFl":
            self.inverted(name)

    def inverted(self, name: str) -> None:
        for field in ("nlist", "nprobe"):
            self.take(f"{name}.{field}", "Q")
        self.index("quantizer")
        self.take(f"{name}.direct_map.type", "B")
        self.vector(f"{name}.direct_map", 8, "q")
        self.take("lists.magic", "I")
        lists, width = self.take("lists.nlist", "Q"), self.take("lists.code_size", "Q")
        self.take("lists.type", "I")
        start = self.place + 8
        count = self.vector("lists.sizes", 8, "Q")
        sizes = struct.unpack_from(f"<{count}Q", self.content, start)
        self.fields += [(f"lists.sizes[{i}]", start + 8 * i, "<Q") for i in (1, count // 2, count - 1)]
        for i, size in enumerate(sizes[:lists]):
            self.place += size * width
            if size and i % 50 == 0:
                self.fields += [
                    (f"lists[{i}].ids[0]", self.place, "<q"),
                    (f"lists[{i}].last", self.place + 8 * size - 8, "<q"),
                ]
            self.place += 8 * size


@cache
def _fields(content: bytes) -> list[Field]:
    reader = _Reader(content)
    reader.index("index")
    return reader.fields


def _values(kind: str, old: float) -> Iterator[float]:
    if kind == "<f":
        yield from (float("nan"), float("inf"), -1e38, 3e38, 0.0, -1.0)
        return
    bits = 8 * struct.calcsize(kind)
    low, high = (0, 2**bits - 1) if kind[1].isupper() else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    wanted = (
        0,
        1,
        2,
        -1,
        old - 1,
        old + 1,
        old * 2,
        old // 2,
        255,
        2**16,
        2**31 - 1,
        2**31,
        2**32,
        2**40,
        2**62,
        low,
        high,
        high - 1,
    )
    yield from (item for item in wanted if low <= item <= high)


def fields(draft: Draft, rng: Rng) -> str:
    """Change one or two fields of the file, and sometimes the manifest in the same way."""
    name = _name(rng)
    content, done = bytearray(draft[name]), []
    known = _fields(draft.base.files[name])
    for _ in range(int(rng.choice([1, 1, 2]))):
        field, place, kind = known[int(rng.integers(len(known)))]
        if place + 8 > len(content):
            continue
        (old,) = struct.unpack_from(kind, content, place)
        news = list(_values(kind, old))
        new = news[int(rng.integers(len(news)))]
        struct.pack_into(kind, content, place, new)
        done.append(f"{field} = {new}")
        key = {"index.nlist": "nlist", "index.nprobe": "nprobe"}.get(field)
        if key and 0 <= new < 2**48:
            draft.manifest["indexes"][name][key] = int(new)
    draft[name] = bytes(content)
    return f"{name}: {', '.join(done)}"


def magic(draft: Draft, rng: Rng) -> str:
    """Set the magic of another kind of index or of inverted lists."""
    name = _name(rng)
    places = [place for field, place, _ in _fields(draft.base.files[name]) if "magic" in field or field == "lists.type"]
    place = int(rng.choice(places))
    new = str(
        rng.choice(
            [
                "IxFI",
                "IxF2",
                "IxFl",
                "IwSq",
                "IwSQ",
                "IwFl",
                "IxSQ",
                "IHNf",
                "IxMp",
                "IxPT",
                "ilar",
                "ilod",
                "full",
                "sprs",
                "null",
                "IBwF",
                "INSf",
                "Irfn",
                "IwPQ",
                "IxRL",
                "IxNu",
                "il00",
                "ilst",
            ]
        )
    )
    draft[name] = draft[name][:place] + new.encode() + draft[name][place + 4 :]
    return f"{name}: {new} at {place}"


@cache
def _other(kind: str, metric: int, rows: int, width: int) -> bytes:
    """Return an index of another kind with random vectors. Raises RuntimeError for an unsupported width."""
    faiss.omp_set_num_threads(1)  # threads would be lost in the children, which fork
    vectors = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)
    index = faiss.index_factory(width, kind, metric)
    index.train(vectors)
    index.add(vectors)
    return faiss.serialize_index(index).tobytes()


def kind(draft: Draft, rng: Rng) -> str:
    """Use an index of any kind that FAISS can write, or a flat index with another metric."""
    name = _name(rng)
    what = "Flat" if rng.random() < 0.1 else str(rng.choice(OTHERS))
    metric = faiss.METRIC_L2 if rng.random() < 0.4 else faiss.METRIC_INNER_PRODUCT
    rows, width = draft.array(LAYOUT.indexes[name].vectors).shape
    try:
        draft[name] = _other(what, metric, rows, width)
    except RuntimeError:
        return f"{name}: {what} does not suit"
    return f"{name}: {what}, measure {metric}"


def nested(draft: Draft, rng: Rng) -> str:
    """Nest indexes deeper than the stack allows."""
    name, depth = _name(rng), int(rng.choice([1, 10, 1_000, 100_000]))
    head = struct.pack("<iqqqBi", 28, 800, 1 << 20, 1 << 20, 1, 0)
    shell = {b"IxMp": b"IxMp" + head, b"IxPT": b"IxPT" + head + struct.pack("<i", 0), b"Irfn": b"IxRF" + head}
    magic = list(shell)[int(rng.integers(len(shell)))]
    draft[name] = shell[magic] * depth + draft[name]
    return f"{name}: {magic.decode()} {depth} deep"


def contents(draft: Draft, rng: Rng) -> str:
    """Truncate, extend or empty the file, set random bytes, or use the other index."""
    name = _name(rng)
    content, how = draft[name], str(rng.choice(["cut", "grow", "empty", "bytes", "head", "other", "repeat"]))
    place = int(rng.integers(len(content)))
    near = int(rng.integers(300))
    draft[name] = {
        "cut": content[:place],
        "grow": content + rng.bytes(int(rng.choice([1, 8, 4096]))),
        "empty": b"",
        "bytes": content[:place] + rng.bytes(8) + content[place + 8 :],
        "head": content[:near] + rng.bytes(int(rng.choice([1, 4]))) + content[near + 4 :],
        "other": draft.base.files[next(item for item in LAYOUT.indexes if item != name)],
        "repeat": content[:place] + content,
    }[how]
    return f"{name}: {how} at {place} or {near}"


def _name(rng: Rng) -> str:
    return str(rng.choice(list(LAYOUT.indexes)))


MUTATIONS = (fields, fields, fields, fields, magic, kind, nested, contents)
