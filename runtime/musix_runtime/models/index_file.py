"""Declaration of the index files of a bundle, which are read as `Index`."""

from typing import Any

from numpy.typing import NDArray

from musix_runtime.bundle.manifest import IndexInfo
from musix_runtime.bundle.part import IndexFile
from musix_runtime.models.index import Description, Index


def index_file(vectors: str) -> IndexFile:
    """Declare a FAISS index of the array `vectors`."""
    return IndexFile(vectors, _read)


def _read(vectors: NDArray[Any], file: NDArray[Any], info: IndexInfo) -> Index:
    index, expected = Index.read(vectors, file), Description(info.kind, info.nlist, info.nprobe)
    if index.description != expected:
        raise ValueError(f"expected {expected}, found {index.description}")
    return index
