"""The manifest of a bundle: its types, its canonical bytes and its limits."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from musix_runtime.errors import FormatVersionError, ManifestError

FORMAT = "musix-bundle"
FORMAT_VERSION = 7
NAME = r"^[a-z0-9][a-z0-9_-]{0,63}\Z"
VERSION = r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}\Z"
MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
SIGNATURE_LIMIT = 4096  # bytes
MANIFEST_LIMIT = 2 * 2**20  # bytes; the demo has about 20 kB
MAX_RECIPE_BYTES = 16 * 2**10

MAX_ROWS = 2**31 - 1  # rows are int32
MAX_KEY_BYTES = 4096
MAX_GOLDEN_BYTES = 4 * 2**20
MAX_CANDIDATES = 1000  # of collab, and as many of content
MAX_POOL = 200  # candidates that the ranker scores
MAX_HISTORY = 10_000  # tracks of one listener
MAX_LISTS = 2**15  # inverted lists of an index
MAX_FAMILY_NAME = 64  # characters
MAX_DEPTH = 8  # of the quality card
MAX_FAMILIES = 32

# A dimension: a number, the name of a count in `Manifest.counts` ("tracks"), or that count plus one ("tracks+1").
Dim = int | str
GOLDEN = "golden/cases.json"

Count = Annotated[int, Meta(ge=0, lt=2**48)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


@dataclass(frozen=True)
class Feature:
    """A number that describes a track, valid in the closed range `low`..`high`."""

    name: str
    unit: str
    low: float
    high: float


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file's length and hash."""

    bytes: Count
    sha256: Sha256


class Serving(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the recipe that the runtime uses."""

    candidates: Annotated[int, Meta(ge=1, le=MAX_CANDIDATES)]  # of collab, and as many of content
    pool: Annotated[int, Meta(ge=1, le=MAX_POOL)]  # candidates that the ranker scores: those with the best blend
    blend: dict[str, Annotated[float, Meta(ge=0, le=1)]]  # weight of each component in the blend
    factors: Annotated[float, Meta(ge=0, le=1)]  # share of matrix factors in collab; the rest is co-listening


class IndexInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an index is searched, and the measured recall of the search."""

    kind: Literal["flat", "ivf"]  # searches all vectors, or `nprobe` of the `nlist` inverted lists
    nlist: Count
    nprobe: Count
    recall: Annotated[float, Meta(ge=0, le=1)]  # share of the exact `at` nearest vectors that are found; 1 for flat
    at: Count
    queries: Count  # number of queries that the recall was measured with


class SourceInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table that the models were trained on, with notes on its rows."""

    sha256: Sha256
    rows: Count
    simulated: bool
    notes: dict[str, int | str]


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The origin of a bundle: recipe, data, packages, commit. It has no time, host name or path."""

    recipe_sha256: Sha256
    recipe: str  # the whole file, from which a rebuild starts
    sources: dict[str, SourceInfo]
    packages: dict[str, str]
    git_commit: str | None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`manifest.json`. bundles/README.md describes each field."""

    format: str
    format_version: int
    name: Annotated[str, Meta(pattern=NAME)]
    version: Annotated[str, Meta(pattern=VERSION)]
    features: list[Feature]
    families: list[str]
    moods: list[str]
    components: list[str]
    counts: dict[str, Count]
    serving: Serving
    indexes: dict[str, IndexInfo]
    files: dict[str, File]
    parity: dict[str, float]
    quality: dict[str, dict[str, Any]]
    provenance: Provenance

    def metrics(self) -> dict[str, float]:
        """Return all numbers of the quality card by their dotted paths."""
        return dict(numbers(self.quality))

    def part_bytes(self) -> dict[str, int]:
        """Return the bytes of all files (`total`, first) and of each part."""
        sizes = {"total": sum(file.bytes for file in self.files.values())}
        for name, file in self.files.items():
            part = name.partition("/")[0]
            sizes[part] = sizes.get(part, 0) + file.bytes
        return sizes

    def size(self, dimension: Dim) -> int:
        """Return the number that a dimension stands for. Raises ManifestError for a count that is missing."""
        if isinstance(dimension, int):
            return dimension
        name, _, plus = dimension.partition("+")
        if name == "families":
            return len(self.families)
        if name not in self.counts:
            raise ManifestError(f"{MANIFEST}: counts: expected {name!r} among them, found {sorted(self.counts)}")
        return self.counts[name] + int(plus or 0)


def numbers(card: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield all numbers of a quality card with their dotted paths."""
    for key, value in card.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", value


def encode(manifest: Manifest) -> bytes:
    """Return the canonical bytes of a manifest: JSON, keys sorted, indented by two, UTF-8, a line feed at the end."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2) + b"\n"


def digest(encoded: bytes) -> str:
    """Return a bundle's digest: the SHA-256 of its manifest's bytes, which hold the hash of every file."""
    return hashlib.sha256(encoded).hexdigest()


class _Header(msgspec.Struct):
    format: str
    format_version: int


def decode(encoded: bytes, place: str) -> Manifest:
    """Return the decoded manifest. Raises ManifestError or FormatVersionError, whose messages begin with `place`."""
    try:
        header = msgspec.json.decode(encoded, type=_Header)
        if header.format != FORMAT:
            raise ManifestError(f"{place}: format: expected {FORMAT!r}, found {header.format!r}")
        if header.format_version != FORMAT_VERSION:
            raise FormatVersionError(
                f"{place}: format_version: expected {FORMAT_VERSION}, found {header.format_version}; "
                "read the bundle with the version of musix-edge that built it, or build it again"
            )
        manifest = msgspec.json.decode(encoded, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"{place}: expected a manifest of format {FORMAT_VERSION}, found: {error}") from error
    if encode(manifest) != encoded:
        raise ManifestError(f"{place}: expected the canonical form (sorted keys, indented by two), found another")
    return manifest


def schema() -> bytes:
    """Return the JSON Schema of a manifest, as shipped in bundles/manifest.schema.json."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Manifest), order="sorted"), indent=2) + b"\n"
