"""FAISS files with a changed count are refused before FAISS allocates memory for them."""

import struct

import faiss
import numpy as np
import pytest

from musix_runtime.bundle import faiss_check

COUNT, WIDTH, NLIST = 3000, 28, 16


def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((COUNT, WIDTH)).astype(np.float32)


def flat() -> bytes:
    index = faiss.IndexFlatIP(WIDTH)
    index.add(vectors())
    return faiss.serialize_index(index).tobytes()


def ivf(lists: int = NLIST, distinct: int = COUNT) -> bytes:
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(WIDTH), WIDTH, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1
    index.train(vectors())
    index.add(vectors()[np.arange(COUNT) % distinct])
    return faiss.serialize_index(index).tobytes()


def check(content: bytes, kind: str, nlist: int = NLIST) -> None:
    faiss_check.check(np.frombuffer(content, np.uint8), kind, COUNT, WIDTH, nlist)


def test_files_that_faiss_writes_pass() -> None:
    check(flat(), "flat", 0)
    check(ivf(), "ivf")
    few = ivf(1024, 3)  # FAISS writes the sizes of many empty lists in another form
    assert b"sprs" in few
    check(few, "ivf", 1024)


FLAT = {
    "dimension": (4, "<i"),
    "vectors": (8, "<q"),
    "is_trained": (32, "<B"),
    "metric": (33, "<i"),
    "numbers": (37, "<q"),
}
IVF = {
    **{name: at for name, at in FLAT.items() if name != "numbers"},
    "lists": (37, "<q"),
    "centres' dimension": (57, "<i"),
    "centres": (61, "<q"),
    "centres' metric": (86, "<i"),
    "centres' numbers": (90, "<q"),
    "direct map": (1890, "<B"),
    "direct map's size": (1891, "<q"),
    "inverted lists": (1903, "<q"),
    "code size": (1911, "<q"),
    "sizes": (1923, "<q"),
    "the first size": (1931, "<q"),
}


@pytest.mark.parametrize(("kind", "name"), [*(("flat", name) for name in FLAT), *(("ivf", name) for name in IVF)])
def test_all_counts_of_faiss_files_are_checked(kind: str, name: str) -> None:
    content = bytearray(flat() if kind == "flat" else ivf())
    place, form = (FLAT if kind == "flat" else IVF)[name]
    (result,) = struct.unpack_from(form, content, place)
    for value in (result + 1, 50_000_000, 2**63 - 1):
        struct.pack_into(form, content, place, value % 2 ** (8 * struct.calcsize(form) - (form != "<B")))
        with pytest.raises(ValueError, match="expected"):
            check(bytes(content), kind, 0 if kind == "flat" else NLIST)


@pytest.mark.parametrize(("kind", "content"), [("flat", flat()), ("ivf", ivf())])
def test_truncated_or_extended_file_is_refused(kind: str, content: bytes) -> None:
    for changed in (*(content[:end] for end in (0, 3, 10, 60, len(content) - 1)), content + b"\0"):
        with pytest.raises(ValueError, match="expected"):
            check(changed, kind, NLIST if kind == "ivf" else 0)


@pytest.mark.parametrize("factory", ["IDMap,Flat", "IVF4,SQ8", "IVF4_HNSW8,Flat", "HNSW8", "SQ8", "PCA4,Flat"])
def test_other_kinds_of_index_are_refused(factory: str) -> None:
    index = faiss.index_factory(WIDTH, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors())
    if "IDMap" in factory:
        index.add_with_ids(vectors(), np.arange(COUNT))
    else:
        index.add(vectors())
    for kind in ("flat", "ivf"):
        with pytest.raises(ValueError, match="expected an index of the kind"):
            check(faiss.serialize_index(index).tobytes(), kind, 4)


def test_more_lists_than_vectors_are_refused() -> None:
    """An empty list takes few bytes in the file, and many in memory."""
    content = np.frombuffer(ivf(), np.uint8)
    with pytest.raises(ValueError, match=f"lists: expected at most one for each of {NLIST - 1} vectors, found {NLIST}"):
        faiss_check.check(content, "ivf", NLIST - 1, WIDTH, NLIST)


def test_sizes_of_lists_must_add_up() -> None:
    content = ivf()
    place = content.find(b"full") + 12
    sizes = np.frombuffer(content, "<u8", NLIST, place).copy()
    for changes in ({0: 50_000_000}, {0: 2**63, 1: 2**63}, {0: int(sizes[0]) + 1}):
        for i, size in changes.items():
            sizes[i] = size
        with pytest.raises(ValueError, match="sizes: expected 3,000 vectors in total"):
            check(content[:place] + sizes.tobytes() + content[place + 8 * NLIST :], "ivf")
