"""Declarations of parts. A part declares its files, counts, checks and loader once, and all code that handles bundles
uses these declarations.

This package has no list of parts: the code that opens a bundle passes the parts that the bundle must have.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from musix_runtime.bundle.manifest import GOLDEN, Dim, IndexInfo
from musix_runtime.bundle.part_files import PartFiles
from musix_runtime.bundle.validation import Checks

T = TypeVar("T")

# (expected response, response, tolerance) -> difference, which passes when it is at most the tolerance. The responses
# are those of `musix_runtime.schemas`.
ResponseError = Callable[[Any, Any, float], float]


@dataclass(frozen=True)
class Array:
    """A `.npy` file: little-endian `dtype` (`S` = bytes of any fixed width), C order, `shape`."""

    dtype: str
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class Graph:
    """An `.onnx` file with float32 inputs and outputs.

    `input_shapes` has all axes of each input. Only the last axis is fixed. The others are free, and the cost of the
    graph is limited for these sizes. `output_widths` has the last axis of each output. Only a graph with `trees` may
    have trees, which need many times their size of memory. A session with an `arena` keeps its memory between runs,
    which suits a graph that often runs on few rows.
    """

    input_shapes: dict[str, tuple[Dim, ...]]
    output_widths: dict[str, Dim]
    trees: bool = False
    arena: bool = False


@dataclass(frozen=True)
class IndexFile:
    """A `.faiss` file that searches the rows of the array `vectors` by inner product.

    `read` returns an index of the vectors and the mapped bytes of the file, which were checked. It raises ValueError
    or RuntimeError when the index differs from its description in the manifest.
    """

    vectors: str
    read: Callable[[NDArray[Any], NDArray[Any], IndexInfo], Any]


@dataclass(frozen=True)
class Part(Generic[T]):
    """One folder of a bundle. File names are relative to the folder `name`.

    `load` returns the model, after `validate` has checked the values of the arrays; both raise LayoutError. `counts`
    has the allowed sizes of the dimensions that the part names; a part may also use dimensions of other parts. `labels`
    are keys of the manifest that must have exactly these values. `classify_error` and `recommend_error` return the
    difference between a response and a golden response, in the fields that the part determines.
    """

    name: str
    load: Callable[[PartFiles], T]
    arrays: Mapping[str, Array] = field(default_factory=dict)
    graphs: Mapping[str, Graph] = field(default_factory=dict)
    indexes: Mapping[str, IndexFile] = field(default_factory=dict)
    counts: Mapping[str, range] = field(default_factory=dict)
    labels: Mapping[str, list[Any]] = field(default_factory=dict)
    validate: Callable[[Checks], None] = lambda checks: None
    classify_error: ResponseError | None = None
    recommend_error: ResponseError | None = None

    @property
    def has_golden_cases(self) -> bool:
        """Whether golden cases compare this part."""
        return bool(self.classify_error or self.recommend_error)


@dataclass(frozen=True)
class Layout:
    """All files of a bundle with these parts, by their names in the bundle."""

    parts: tuple[Part[Any], ...]

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """All arrays."""
        return {f"{part.name}/{name}": array for part in self.parts for name, array in part.arrays.items()}

    @cached_property
    def graphs(self) -> dict[str, Graph]:
        """All graphs."""
        return {f"{part.name}/{name}": graph for part in self.parts for name, graph in part.graphs.items()}

    @cached_property
    def indexes(self) -> dict[str, IndexFile]:
        """All indexes, with the names of their vectors in the bundle."""
        return {
            f"{part.name}/{name}": IndexFile(f"{part.name}/{index.vectors}", index.read)
            for part in self.parts
            for name, index in part.indexes.items()
        }

    @cached_property
    def counts(self) -> dict[str, range]:
        """The allowed sizes of all named dimensions."""
        return {name: allowed for part in self.parts for name, allowed in part.counts.items()}

    @cached_property
    def labels(self) -> dict[str, list[Any]]:
        """Keys of the manifest with the values that they must have."""
        return {key: value for part in self.parts for key, value in part.labels.items()}

    @cached_property
    def files(self) -> tuple[str, ...]:
        """All files except the manifest and the signature."""
        return (*self.arrays, *self.graphs, *self.indexes, GOLDEN)

    @cached_property
    def golden_parts(self) -> tuple[str, ...]:
        """Names of the parts that golden cases compare."""
        return tuple(part.name for part in self.parts if part.has_golden_cases)
