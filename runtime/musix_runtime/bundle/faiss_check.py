"""The FAISS files that a bundle may have, checked in their bytes before FAISS reads them.

FAISS trusts all counts in a file: one changed number can make it allocate gigabytes or crash the process. So this
module reads each kind of index to its last byte, and compares all counts with those that are known from the manifest.
Source: https://github.com/facebookresearch/faiss/blob/main/faiss/impl/index_write.cpp.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

INNER_PRODUCT = 0  # faiss.METRIC_INNER_PRODUCT


class _Reader:
    """Reads the fields of a file in order, and raises ValueError for an unexpected value."""

    def __init__(self, file: NDArray[np.uint8]) -> None:
        self.file = file
        self.position = 0

    def array(self, dtype: str, count: int) -> NDArray[Any]:
        size = np.dtype(dtype).itemsize * count
        if size > self.file.size - self.position:
            raise ValueError(f"expected {size:,} bytes from byte {self.position:,} on, found the end of the file")
        content = self.file[self.position : self.position + size]
        self.position += size
        return content.view(dtype)

    def skip(self, size: int) -> None:
        self.array("u1", size)

    def number(self, dtype: str) -> int:
        return int(self.array(dtype, 1)[0])

    def expect(self, name: str, dtype: str, *expected: int) -> None:
        found = self.number(dtype)
        if found not in expected:
            raise ValueError(f"{name}: expected {' or '.join(map(str, expected))}, found {found}")

    def tag(self, *expected: bytes) -> None:
        found = self.array("u1", 4).tobytes()
        if found not in expected:
            raise ValueError(f"expected an index of the kind {b' or '.join(expected).decode()!r}, found {found!r}")


def _header(file: _Reader, count: int, width: int) -> None:
    """Check the header, which all kinds of index have."""
    file.expect("dimension", "<i4", width)
    file.expect("vectors", "<i8", count)
    file.skip(16)  # not used by FAISS
    file.expect("is_trained", "u1", 1)
    file.expect("metric", "<i4", INNER_PRODUCT)


def _flat(file: _Reader, count: int, width: int, nlist: int) -> None:
    """Check an IndexFlatIP."""
    file.tag(b"IxFI")
    _header(file, count, width)
    file.expect("numbers", "<u8", count * width)
    file.skip(4 * count * width)


def _ivf(file: _Reader, count: int, width: int, nlist: int) -> None:
    """Check an IndexIVFFlat over an IndexFlatIP of `nlist` centroids."""
    if nlist > count:
        raise ValueError(f"lists: expected at most one for each of {count:,} vectors, found {nlist:,}")
    file.tag(b"IwFl")
    _header(file, count, width)
    file.expect("lists", "<u8", nlist)
    file.skip(8)  # nprobe: the reader of the part compares it with the manifest
    _flat(file, nlist, width, 0)
    file.expect("direct map", "u1", 0)
    file.expect("direct map's size", "<u8", 0)
    _inverted_lists(file, count, nlist, 4 * width)


def _inverted_lists(file: _Reader, count: int, nlist: int, code_size: int) -> None:
    """Check ArrayInvertedLists: the sizes of all lists or of those that are not empty, then codes and ids of each."""
    file.tag(b"ilar")
    file.expect("inverted lists", "<u8", nlist)
    file.expect("inverted lists' code size", "<u8", code_size)
    kind = file.array("u1", 4).tobytes()
    if kind == b"full":
        file.expect("sizes", "<u8", nlist)
        sizes = file.array("<u8", nlist)
    elif kind == b"sprs":
        numbers = file.number("<u8")
        if numbers > 2 * nlist or numbers % 2:
            raise ValueError(f"sizes: expected at most {nlist} pairs, found {numbers} numbers")
        pairs = file.array("<u8", numbers).reshape(-1, 2)  # number and size of a list
        if (pairs[:, 0] >= nlist).any() or (np.diff(pairs[:, 0].astype(np.int64)) <= 0).any():
            raise ValueError(f"sizes: expected ascending numbers of {nlist} lists, found others")
        sizes = pairs[:, 1]
    else:
        raise ValueError(f"sizes: expected 'full' or 'sprs', found {kind!r}")
    if (sizes > count).any() or int(sizes.sum()) != count:
        raise ValueError(f"sizes: expected {count:,} vectors in total, found {int(sizes.sum()):,}")
    file.skip(count * (code_size + 8))


_KINDS: dict[str, Callable[[_Reader, int, int, int], None]] = {"flat": _flat, "ivf": _ivf}


def check(file: NDArray[np.uint8], kind: str, count: int, width: int, nlist: int) -> None:
    """Raise ValueError unless `file` is exactly one such index of `count` vectors of `width`, with `nlist` lists.

    The values of the vectors and codes are not checked.
    """
    reader = _Reader(file)
    _KINDS[kind](reader, count, width, nlist)
    if reader.position != file.size:
        raise ValueError(f"expected {reader.position:,} bytes, found {file.size:,}")
