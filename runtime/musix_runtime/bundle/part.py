"""Declarations of parts. A part declares its files, counts, checks and loader once; all code that handles a bundle is
driven by these declarations.

This package knows no part by name: the code that opens a bundle passes the parts that the bundle must hold.
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

# Returns the difference of two responses that still passes when it is at most the tolerance:
# (expected response, response, tolerance) -> difference. For the messages of `musix_runtime.schemas`.
ResponseError = Callable[[Any, Any, float], float]


@dataclass(frozen=True)
class Array:
    """A `.npy` file: little-endian `dtype` (`S` = bytes of any fixed width), C order, `shape`."""

    dtype: str
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class Graph:
    """An `.onnx` file with float32 inputs and outputs.

    `input_shapes` has every axis of each input. Only the last axis is fixed; the others are free, and these numbers
    are what the graph's cost is bounded with. `output_widths` has the last axis of each output. A session with an
    `arena` keeps its memory between runs: for a graph that runs often on few rows.
    """

    input_shapes: dict[str, tuple[Dim, ...]]
    output_widths: dict[str, Dim]
    arena: bool = False


@dataclass(frozen=True)
class IndexFile:
    """A `.faiss` file that searches the rows of the array `vectors` by inner product.

    `read` makes an index of the vectors and the mapped bytes of the file, which were checked. It raises ValueError
    or RuntimeError when the index is not what the manifest says.
    """

    vectors: str
    read: Callable[[NDArray[Any], NDArray[Any], IndexInfo], Any]


@dataclass(frozen=True)
class Part(Generic[T]):
    """One folder of a bundle. Names of files are relative to the folder, which is `name`.

    `load` makes the model of the files, after `validate` has checked the content of the arrays: it raises LayoutError.
    `counts` are the allowed sizes of the dimensions that the part names; parts may use the dimensions of others.
    `labels` are keys of the manifest that must have exactly these values. `classify_error` and `recommend_error`
    compare what the part contributes to a response with a golden response.
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
        """Every array."""
        return {f"{part.name}/{name}": array for part in self.parts for name, array in part.arrays.items()}

    @cached_property
    def graphs(self) -> dict[str, Graph]:
        """Every graph."""
        return {f"{part.name}/{name}": graph for part in self.parts for name, graph in part.graphs.items()}

    @cached_property
    def indexes(self) -> dict[str, IndexFile]:
        """Every index, with the name of its vectors in the bundle."""
        return {
            f"{part.name}/{name}": IndexFile(f"{part.name}/{index.vectors}", index.read)
            for part in self.parts
            for name, index in part.indexes.items()
        }

    @cached_property
    def counts(self) -> dict[str, range]:
        """The allowed sizes of every named dimension."""
        return {name: allowed for part in self.parts for name, allowed in part.counts.items()}

    @cached_property
    def labels(self) -> dict[str, list[Any]]:
        """Keys of the manifest with the values that they must have."""
        return {key: value for part in self.parts for key, value in part.labels.items()}

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Every file except the manifest and the signature."""
        return (*self.arrays, *self.graphs, *self.indexes, GOLDEN)

    @cached_property
    def golden_parts(self) -> tuple[str, ...]:
        """Names of the parts that golden cases compare."""
        return tuple(part.name for part in self.parts if part.has_golden_cases)
