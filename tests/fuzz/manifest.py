"""Mutations of the manifest: any value, its own bytes, and counts with all arrays and indexes of these sizes."""

from typing import Any

import faiss
import numpy as np
import onnx
from numpy.typing import NDArray

from musix_runtime.models.parts import LAYOUT
from tests.fuzz import documents
from tests.fuzz.draft import Draft

Rng = np.random.Generator
SIZES = (0, 0, 1, 2, 3, 31, 1000)
LARGEST = 1_000_000  # items of an array, whatever an earlier mutation made of a count


def values(draft: Draft, rng: Rng) -> str:
    """Change any value of the manifest."""
    return documents.mutate(draft.manifest, rng)


def numbers(draft: Draft, rng: Rng) -> str:
    """Change the numbers that the runtime uses (counts, serving, indexes), within their ranges and beyond."""
    manifest = draft.manifest
    part = [manifest["counts"], manifest["serving"], manifest["serving"]["blend"], *manifest["indexes"].values()]
    place = part[int(rng.integers(len(part)))]
    name = str(rng.choice(list(place)))
    if isinstance(place[name], dict | str):
        place[name] = documents.wild(rng, place[name])
    else:
        place[name] = documents.NUMBERS[int(rng.integers(len(documents.NUMBERS)))]
    return f"{name}: {place[name]!r}"


def blend(draft: Draft, rng: Rng) -> str:
    """Set weights of the blend, pool and candidates to the ends of their ranges."""
    serving = draft.manifest["serving"]
    serving["blend"] = {name: float(rng.choice([0, 0, 1, 5e-324])) for name in serving["blend"]}
    serving["candidates"], serving["pool"] = (int(item) for item in rng.choice([1, 2, 50, 10_000], 2))
    return f"serving: {serving}"


def labels(draft: Draft, rng: Rng) -> str:
    """Set unusual names of families."""
    families = draft.manifest["families"]
    place = int(rng.integers(len(families)))
    text = documents.TEXTS[int(rng.integers(len(documents.TEXTS)))]
    families[place] = text
    return f"families: {text[:20]!r} at {place}"


def quality(draft: Draft, rng: Rng) -> str:
    """Set a quality card with wrong types, or nested deeper than a parser's stack."""
    depth = int(rng.choice([1, 100, 500, 1_000, 5_000]))
    card = documents.nested(depth, rng) if rng.random() < 0.5 else documents.wild(rng, {})
    key = str(rng.choice(["genre", "x", "x.y"]))
    if depth > 500:
        marker = b'"quality": {'
        text = (b"[" * depth + b"]" * depth) if rng.random() < 0.5 else b'{"a":' * depth + b"1" + b"}" * depth
        draft.edit_text = lambda encoded: encoded.replace(marker, marker + b'\n    "a": ' + text + b",", 1)
        return f"quality: {depth} deep, not indented"
    draft.manifest["quality"][key] = card
    return f"quality.{key}: {str(card)[:40]!r}, {depth} deep"


def text(draft: Draft, rng: Rng) -> str:
    """Change the bytes of the manifest: a repeated key, other numbers or white space, truncation, random bytes."""
    place, junk = int(rng.integers(10_000)), rng.bytes(3)
    edits = {
        "cut": lambda t: t[: place % len(t)],
        "bytes": lambda t: t[: place % len(t)] + junk + t[place % len(t) + 3 :],
        "twice": lambda t: t.replace(b'  "name"', b'  "name": "x",\n  "name"', 1),
        "number": lambda t: t.replace(b'"tracks": 8', b'"tracks": 1e400, "x": 8', 1),
        "surrogate": lambda t: t.replace(b'"ambient"', b'"\\ud800"', 1),
        "escaped": lambda t: t.replace(b'"ambient"', b'"\\u0061mbient"', 1),
        "UTF-16": lambda t: t.decode("utf-8", "replace").encode("utf-16"),
        "BOM": lambda t: b"\xef\xbb\xbf" + t,
        "many": lambda t: t.replace(b'"quality": {', b'"quality": {' + b'"a": 1, ' * 100_000, 1),
        "deep": lambda t: t.replace(b'"quality": {', b'"quality": {"a": ' + b"[" * 200_000, 1),
        "long": lambda t: t + b" " * 17_000_000,
    }
    how = str(rng.choice(list(edits)))
    draft.edit_text = edits[how]
    return f"manifest: {how} at {place}"


def resize(draft: Draft, rng: Rng) -> str:
    """Change a count and the size of all its arrays and indexes: none, one, some, or more than before."""
    count = str(rng.choice(list(draft.manifest["counts"])))
    size = int(rng.choice(SIZES))
    set_count(draft, count, size)
    also = ""
    if rng.random() < 0.4:
        also = str(rng.choice(list(draft.manifest["counts"])))
        set_count(draft, also, 0)
    return f"counts: {count} = {size}, {also} = 0"


def nobody(draft: Draft, rng: Rng) -> str:
    """Empty parts consistently: no tracks, no listeners, no histories, no keys."""
    groups = (
        ("tracks", "ids", "name_bytes", "artist_bytes", "popular", "heard", "plays"), ("ids",), ("listeners", "plays"),
        ("heard",), ("plays",), ("popular",), ("grams",), ("artists",), ("artists", "grams"), ("popular", "heard"),
        ("tracks", "ids", "name_bytes", "artist_bytes", "popular", "heard", "listeners", "plays"),
        ("name_bytes",), ("artist_bytes",), ("taste_width",), ("collab_width",),
    )  # fmt: skip
    group = groups[int(rng.integers(len(groups)))]
    for count in group:
        set_count(draft, count, 0)
    return f"counts: 0 {', '.join(group)}"


def single(draft: Draft, rng: Rng) -> str:
    """Shrink the catalogue to some tracks."""
    size = int(rng.choice([1, 2, 5]))
    for count in ("tracks", "ids", "popular", "heard"):
        set_count(draft, count, size)
    track_ids = draft.array("catalog/track_ids.npy")
    draft.set_array("catalog/ids.npy", track_ids)
    for name in ("catalog/id_rows.npy", "catalog/popular.npy", "collab/rows.npy"):
        draft.set_array(name, np.arange(size, dtype=np.int32))
    draft.set_array("collab/history_rows.npy", draft.array("collab/history_rows.npy") % size)
    return f"{size} tracks"


def many(draft: Draft, rng: Rng) -> str:
    """Add millions of rows: of one listener's history, popular rows, or ids of a track."""
    what, size = str(rng.choice(["plays", "popular", "ids", "moods"])), int(rng.choice([100_000, 3_000_000]))
    if what == "ids":
        size //= 10
        draft.set_array("catalog/ids.npy", numbered(size))
        draft.set_array("catalog/id_rows.npy", np.zeros(size, np.int32))
    elif what == "popular":
        draft.set_array("catalog/popular.npy", np.zeros(size, np.int32))
    else:
        what = "plays"
        offsets = draft.array("collab/history_offsets.npy")
        offsets[1:] += size - offsets[-1]
        draft.set_array("collab/history_offsets.npy", offsets)
        draft.set_array(
            "collab/history_rows.npy", (np.arange(size) % len(draft.array("content/vectors.npy"))).astype("<i4")
        )
    draft.manifest["counts"][what] = size
    return f"{size:,} {what}"


def wrapping(draft: Draft, rng: Rng) -> str:
    """Set counts whose product is 0 in 64 bits, with arrays without data."""
    artists, width = (2**17 - 1, 2**47) if rng.random() < 0.5 else (2**18 - 1, 2**46)
    draft.manifest["counts"] |= {"artists": artists, "genre_width": width}
    draft.set_array("genre/artists.npy", numbered(artists))
    head = str({"descr": "<f4", "fortran_order": False, "shape": (artists + 1, width)}).encode().ljust(117) + b"\n"
    draft["genre/artist_factors.npy"] = b"\x93NUMPY\1\0" + len(head).to_bytes(2, "little") + head
    graph = onnx.load_from_string(draft["genre/model.onnx"])
    next(item for item in graph.graph.input if item.name == "artist").type.tensor_type.shape.dim[1].dim_value = width
    draft["genre/model.onnx"] = graph.SerializeToString()
    return f"({artists} + 1) x {width}"


def claims(draft: Draft, rng: Rng) -> str:
    """Set a huge count in the manifest and in the header of one array, without the data."""
    name = str(rng.choice(list(LAYOUT.arrays)))
    dimension = next((item for item in LAYOUT.arrays[name].shape if isinstance(item, str)), None)
    if dimension is None or dimension == "families":
        return f"{name}: no count"
    size = int(rng.choice([2**20, 2**31, 2**32, 2**40, 2**47, 2**48 - 1]))
    count = dimension.partition("+")[0]
    draft.manifest["counts"][count] = size
    shape = tuple(_size(draft, item) for item in LAYOUT.arrays[name].shape)
    kind = "|S0" if LAYOUT.arrays[name].dtype == "S" and rng.random() < 0.5 else draft.array(name).dtype.str
    head = str({"descr": kind, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    draft[name] = b"\x93NUMPY\1\0" + len(head).to_bytes(2, "little") + head
    return f"{name}: {kind} {shape} without data"


def signature(draft: Draft, rng: Rng) -> str:
    """Set a signature: none, random, or by another key, with or without a trusted key."""
    draft.trusted = bool(rng.random() < 0.7)
    values = ("", "none", "zz", "é", "0" * 128, None, 1)
    choices: tuple[bytes | None, ...] = (
        None, b"", b"null", b"{}", b"\xff\xfe", b"[" * 2_000, b"x" * 5_000, b'{"algorithm": 1}',
        *(_signed(key, value) for key in ("algorithm", "key", "signature") for value in values),
    )  # fmt: skip
    choice = int(rng.integers(len(choices)))
    draft.signature = choices[choice]
    return f"signature {choice}, {'trusted' if draft.trusted else 'not asked for'}"


def _signed(key: str, value: object) -> bytes:
    document = {"algorithm": "ed25519", "key": "00" * 32, "signature": "00" * 64} | {key: value}
    return str(document).replace("'", '"').replace("None", "null").encode()


def numbered(size: int) -> NDArray[np.bytes_]:
    """Return `count` sorted keys."""
    return np.arange(10**8, 10**8 + size).astype("S9")


def set_count(draft: Draft, count: str, size: int) -> None:
    """Set a count, and cut or lengthen all that it is a size of."""
    draft.manifest["counts"][count] = size
    for name, array in LAYOUT.arrays.items():
        if any(str(item).partition("+")[0] == count for item in array.shape):
            shape = tuple(_size(draft, item) for item in array.shape)
            draft.set_array(name, _fitted(name, draft.array(name), shape))
    _mend(draft)


def _size(draft: Draft, dimension: int | str) -> int:
    if isinstance(dimension, int):
        return dimension
    name, _, plus = dimension.partition("+")
    size = len(draft.manifest["families"]) if name == "families" else draft.manifest["counts"][name]
    return min(size, LARGEST) + int(plus or 0)


def _fitted(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the array with another shape, truncated or repeated. Keys and offsets stay sorted."""
    for axis, size in enumerate(shape):
        if not array.shape[axis]:
            array = np.zeros([size if i == axis else item for i, item in enumerate(array.shape)], array.dtype)
        array = np.take(array, np.arange(size) % array.shape[axis], axis)
    if array.dtype.kind == "S" and len(np.unique(array)) < len(array):
        array = numbered(len(array))
    return np.sort(array) if "offsets" in name else array


def _mend(draft: Draft) -> None:
    """Let offsets end where their data do, rows be of the catalogue, and indexes hold the vectors that there are."""
    counts = draft.manifest["counts"]
    for name, end in (("catalog/name", "name_bytes"), ("catalog/artist", "artist_bytes"), ("collab/history", "plays")):
        offsets = np.minimum(draft.array(f"{name}_offsets.npy"), counts[end])
        offsets[0], offsets[-1] = 0, counts[end] if len(offsets) > 1 else 0
        draft.set_array(f"{name}_offsets.npy", offsets)
    for name in ("catalog/id_rows.npy", "catalog/popular.npy", "collab/history_rows.npy"):
        draft.set_array(name, draft.array(name) % max(counts["tracks"], 1))
    recent = np.minimum(
        draft.array("collab/history_recent.npy"), np.diff(draft.array("collab/history_offsets.npy"))[:, None]
    )
    draft.set_array("collab/history_recent.npy", recent)
    for name, index in LAYOUT.indexes.items():
        _reindex(draft, name, draft.array(index.vectors))


def _reindex(draft: Draft, name: str, vectors: NDArray[np.float32]) -> None:
    """Set a flat index of other vectors."""
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    draft[name] = faiss.serialize_index(flat).tobytes()
    draft.manifest["indexes"][name] |= {"kind": "flat", "nlist": 0, "nprobe": 0, "recall": 1.0}


MUTATIONS = (
    values,
    values,
    numbers,
    blend,
    labels,
    quality,
    text,
    resize,
    resize,
    nobody,
    single,
    many,
    wrapping,
    claims,
)
