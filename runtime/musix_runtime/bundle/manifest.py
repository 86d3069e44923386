"""The manifest: what a bundle says of itself, and the layout that every bundle of this format has."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from musix_runtime.errors import FormatVersionError, ManifestError
from musix_runtime.models import features

FORMAT = "musix-bundle"
FORMAT_VERSION = 5
NAME = r"^[a-z0-9][a-z0-9_-]{0,63}\Z"
VERSION = r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}\Z"
MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
SIGNATURE_LIMIT = 4096  # bytes
MANIFEST_LIMIT = 2 * 2**20  # bytes; a real one has some 20 kB

MAX_ROWS = 2**31 - 1  # rows are int32
MAX_KEY_BYTES = 4096
MAX_GOLDEN_BYTES = 16 * 2**20
MAX_POOL = 1000  # tracks that collab and content each propose, and that the ranker sees
MAX_HISTORY = 100_000  # tracks of one listener
MAX_DEPTH = 8  # of the quality card
MAX_FAMILIES = 32

PARTS = ("genre", "mood", "collab", "content", "ranker")
CONTENT = 28  # 12 audio + 10 genre + 5 mood + 1 artist popularity

# A dimension is a number, or the name of a count in `Manifest.counts`, or that count plus one.
Dimension = int | str


@dataclass(frozen=True)
class Array:
    """A `.npy` file: little-endian `dtype` (`S` = bytes of any fixed width), C order, `shape`."""

    dtype: str
    shape: tuple[Dimension, ...]


@dataclass(frozen=True)
class Graph:
    """An `.onnx` file: float32 inputs and outputs by name. Of an input all axes, of which only the last is fixed: the
    others are free, and bounds are reckoned with these numbers; of an output the width."""

    inputs: dict[str, tuple[Dimension, ...]]
    outputs: dict[str, Dimension]


@dataclass(frozen=True)
class Index:
    """A FAISS file that finds the vectors of an array by inner product."""

    vectors: str


ARRAYS = {
    "catalog/ids.npy": Array("S", ("ids",)),
    "catalog/id_rows.npy": Array("<i4", ("ids",)),
    "catalog/track_ids.npy": Array("S", ("tracks",)),
    "catalog/name_offsets.npy": Array("<i8", ("tracks+1",)),
    "catalog/name_data.npy": Array("|u1", ("name_bytes",)),
    "catalog/artist_offsets.npy": Array("<i8", ("tracks+1",)),
    "catalog/artist_data.npy": Array("|u1", ("artist_bytes",)),
    "catalog/inputs.npy": Array("<f4", ("tracks", len(features.INPUTS))),
    "catalog/families.npy": Array("<u4", ("tracks",)),
    "catalog/moods.npy": Array("|u1", ("tracks",)),
    "catalog/freshness.npy": Array("<f4", ("tracks",)),
    "catalog/popularity.npy": Array("<f4", ("tracks",)),
    "catalog/popular.npy": Array("<i4", ("popular",)),
    "genre/artists.npy": Array("S", ("artists",)),
    "genre/artist_factors.npy": Array("<f4", ("artists+1", "genre_width")),
    "genre/grams.npy": Array("S", ("grams",)),
    "genre/gram_weights.npy": Array("<f4", ("grams", "families")),
    "collab/listeners.npy": Array("S", ("listeners",)),
    "collab/listener_factors.npy": Array("<f4", ("listeners", "collab_width")),
    "collab/rows.npy": Array("<i4", ("heard",)),
    "collab/track_factors.npy": Array("<f4", ("heard", "collab_width")),
    "collab/track_mean.npy": Array("<f4", ("collab_width",)),
    "collab/tastes.npy": Array("<f4", ("heard", "taste_width")),
    "collab/fold_in.npy": Array("<f4", ("collab_width+1", "collab_width")),
    "collab/history_offsets.npy": Array("<i8", ("listeners+1",)),
    "collab/history_rows.npy": Array("<i4", ("plays",)),
    "collab/history_recent.npy": Array("<i4", ("listeners", 2)),
    "content/vectors.npy": Array("<f4", ("tracks", CONTENT)),
}

GRAPHS = {
    "genre/model.onnx": Graph(
        {
            "features": (1000, len(features.INPUTS)),
            "artist": (1000, "genre_width"),
            "title": (1000, "families"),
            "case": (1000, 1),
        },
        {"confidence": "families"},
    ),
    "mood/model.onnx": Graph({"features": (1000, len(features.AUDIO))}, {"probabilities": 5}),
    "ranker/model.onnx": Graph({"components": (16, 1100, 5), "context": (16, 2)}, {"score": 1}),
}

INDEXES = {"collab/index.faiss": Index("collab/track_factors.npy"), "content/index.faiss": Index("content/vectors.npy")}

GOLDEN = "golden/cases.json"

# Every file of a bundle, beside manifest and signature.
LAYOUT = (*ARRAYS, *GRAPHS, *INDEXES, GOLDEN)


# How many there are at least and at most of what the arrays' dimensions name.
COUNTS = {
    "tracks": range(1, MAX_ROWS),
    "ids": range(1, MAX_ROWS),
    "name_bytes": range(2**40),
    "artist_bytes": range(2**40),
    "popular": range(10_001),
    "artists": range(MAX_ROWS),
    "genre_width": range(1, 1024),
    "grams": range(MAX_ROWS),
    "listeners": range(MAX_ROWS),
    "heard": range(MAX_ROWS),
    "collab_width": range(2, 257),
    "taste_width": range(1, 257),
    "plays": range(2**40),
}

Count = Annotated[int, Meta(ge=0, lt=2**48)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file's length and hash."""

    bytes: Count
    sha256: Sha256


class Serving(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers of the recipe that the runtime itself follows."""

    candidates: Annotated[int, Meta(ge=1, le=MAX_POOL)]  # tracks that collab and content each propose
    pool: Annotated[int, Meta(ge=1, le=MAX_POOL)]  # of these, how many the ranker sees: the best by the blend
    blend: dict[str, Annotated[float, Meta(ge=0, le=1)]]  # weight of each component in the blend


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an index is searched, and what that was measured to find."""

    kind: Literal["flat", "ivf"]  # all vectors; or those of `nprobe` of the `nlist` inverted lists
    nlist: Count
    nprobe: Count
    recall: Annotated[float, Meta(ge=0, le=1)]  # share of the exact `at` nearest that are found; 1 for flat
    at: Count
    queries: Count  # over how many it was measured


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table that the models learned from, and what its rows came to."""

    sha256: Sha256
    rows: Count
    simulated: bool
    notes: dict[str, int | str]


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the bundle was made of; no clock, host or path in it."""

    recipe_sha256: Sha256
    recipe: str  # the file, whole: what a rebuild starts from
    sources: dict[str, Source]
    packages: dict[str, str]
    git_commit: str | None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`manifest.json`. Field by field explained in bundles/README.md."""

    format: str
    format_version: int
    name: Annotated[str, Meta(pattern=NAME)]
    version: Annotated[str, Meta(pattern=VERSION)]
    features: list[features.Feature]
    families: list[str]
    moods: list[str]
    components: list[str]
    counts: dict[str, Count]
    serving: Serving
    indexes: dict[str, Search]
    files: dict[str, File]
    parity: dict[str, float]
    quality: dict[str, dict[str, Any]]
    provenance: Provenance

    def figures(self) -> dict[str, float]:
        """Every number of the quality card, by its dotted path."""
        return dict(_figures(self.quality))

    def part_bytes(self) -> dict[str, int]:
        """Bytes of all files and of each part, `total` first."""
        sizes = {"total": sum(file.bytes for file in self.files.values())}
        for name, file in self.files.items():
            part = name.partition("/")[0]
            sizes[part] = sizes.get(part, 0) + file.bytes
        return sizes

    def size(self, dimension: Dimension) -> int:
        """The number that a dimension stands for."""
        if isinstance(dimension, int):
            return dimension
        name, _, plus = dimension.partition("+")
        if name == "families":
            return len(self.families)
        if name not in self.counts:
            raise ManifestError(f"{MANIFEST}: counts: expected {name!r} among them, found {sorted(self.counts)}")
        return self.counts[name] + int(plus or 0)


def _figures(card: dict[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    for key, value in card.items():
        if isinstance(value, dict):
            yield from _figures(value, f"{above}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{above}{key}", value


def encode(manifest: Manifest) -> bytes:
    """The one byte form of a manifest: JSON, keys sorted, indented by two, UTF-8, a line feed at the end."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2) + b"\n"


def digest(encoded: bytes) -> str:
    """A bundle's identity: the SHA-256 of its manifest's bytes, which hold the hash of every file."""
    return hashlib.sha256(encoded).hexdigest()


class _Head(msgspec.Struct):
    format: str
    format_version: int


def decode(encoded: bytes, where: str) -> Manifest:
    """Read a manifest. Raises ManifestError or FormatVersionError; `where` is named in both."""
    try:
        head = msgspec.json.decode(encoded, type=_Head)
        if head.format != FORMAT:
            raise ManifestError(f"{where}: format: expected {FORMAT!r}, found {head.format!r}")
        if head.format_version != FORMAT_VERSION:
            raise FormatVersionError(
                f"{where}: format_version: this runtime reads version {FORMAT_VERSION}, found {head.format_version}"
            )
        manifest = msgspec.json.decode(encoded, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"{where}: expected a manifest of format {FORMAT_VERSION}, found: {error}") from error
    if encode(manifest) != encoded:
        raise ManifestError(f"{where}: expected the canonical form (sorted keys, indented by two), found another")
    return manifest


def schema() -> bytes:
    """The JSON Schema of a manifest, as shipped in bundles/manifest.schema.json."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Manifest), order="sorted"), indent=2) + b"\n"
