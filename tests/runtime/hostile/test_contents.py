"""Arrays, graphs and indexes with the right hash and wrong content are refused."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import onnx
import pytest

from musix_runtime import Engine
from musix_runtime.errors import BundleError, GoldenError, LayoutError
from musix_runtime.models.parts import open_bundle
from tests.runtime.hostile.build import agree, change_array, edit, replace_array


def put(place: int, value: object) -> Callable[[np.ndarray], None]:
    return lambda array: array.reshape(-1).__setitem__(place, value)


def halve_a_character(keys: np.ndarray) -> None:
    """Let the last key end, at its full width, with the first half of a character."""
    keys[-1] = b"z" * (keys.itemsize - 1) + b"\xc3"


def link(keys: np.ndarray) -> None:
    """Let the last id be a link, of which requests take the id inside."""
    keys[-1] = b"spotify:track:zz"


def begin_inside(keys: np.ndarray) -> None:
    """Let a key end with the first half of a character, and the next one begin with the other half."""
    keys[-2] = b"z" * (keys.itemsize - 1) + b"\xc3"
    keys[-1] = b"\xa9"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("collab/rows.npy", lambda a: a.fill(-5), r"collab/rows: expected values in 0..2999, found -5..-5"),
        ("collab/rows.npy", lambda a: a.sort() or a[:2].fill(7), "collab/rows: expected ascending values"),
        ("catalog/id_rows.npy", put(0, 3000), "catalog/id_rows: expected values in 0..2999"),
        ("catalog/id_rows.npy", lambda a: a.fill(5), "catalog/id_rows: expected the row of the main id of each track"),
        ("catalog/popular.npy", put(0, -1), "catalog/popular: expected values in 0..2999"),
        ("collab/history_rows.npy", put(5, 10**6), "collab/history_rows: expected values in 0..2999"),
        ("catalog/ids.npy", link, "catalog/ids: expected ids of tracks without a link around them, found 'spotify:tra"),
        ("catalog/moods.npy", put(0, 5), "catalog/moods: expected values in 0..4"),
        ("catalog/families.npy", put(0, 2**17), "catalog/families: expected values in 0..131071"),
        ("catalog/freshness.npy", put(3, np.nan), "catalog/freshness: expected values in 0..1, found nan"),
        ("catalog/popularity.npy", put(3, 1.5), "catalog/popularity: expected values in 0..1"),
        ("catalog/release_days.npy", put(3, -719_163), "catalog/release_days: expected -2147483648 or days in -7"),
        ("catalog/release_days.npy", put(-1, 2_932_897), "days in -719162..2932896, found 2932897"),
        ("catalog/inputs.npy", put(3, np.inf), "catalog/inputs: expected loudness in -70..10"),
        ("catalog/inputs.npy", put(0, 3.4e38), "catalog/inputs: expected danceability in 0..1"),
        ("collab/track_factors.npy", put(9, np.nan), "collab/track_factors: expected values in"),
        ("content/vectors.npy", put(9, np.nan), "content/vectors: expected vectors of length 1"),
        ("collab/listener_factors.npy", put(9, np.inf), "collab/listener_factors: expected values in"),
        ("collab/fold_in.npy", put(9, np.nan), "collab/fold_in: expected values in"),
        ("collab/track_mean.npy", put(9, np.nan), "collab/track_mean: expected values in"),
        ("collab/tastes.npy", put(9, np.nan), "collab/tastes: expected values in"),
        ("genre/artist_factors.npy", put(9, np.nan), "genre/artist_factors: expected values in"),
        ("catalog/name_offsets.npy", lambda a: a.__iadd__(1), "catalog/name_offsets: expected values from 0 to"),
        ("collab/history_offsets.npy", put(1, 10**9), "collab/history_offsets: expected ascending values"),
        ("collab/history_offsets.npy", lambda a: a[1:-1].fill(a[-1]), "history_offsets: expected steps of at most 10,"),
        ("catalog/name_offsets.npy", lambda a: a[1:200].fill(a[200]), "name_offsets: expected steps of at most 2,000"),
        ("catalog/artist_offsets.npy", lambda a: a[1:200].fill(a[200]), "artist_offsets: expected steps of at most 2"),
        ("collab/history_recent.npy", put(0, 10**6), "collab/history_recent: expected short term <= medium term"),
        ("catalog/name_data.npy", put(0, 0xFF), "catalog/name_data: expected UTF-8"),
        ("catalog/ids.npy", put(0, b"~"), "catalog/ids: expected ascending values"),
        ("collab/listeners.npy", put(1, b"listener-000"), "collab/listeners: expected ascending values"),
        ("collab/listeners.npy", put(-1, b"\xff\xfe"), "collab/listeners: expected keys in UTF-8"),
        ("collab/listeners.npy", halve_a_character, "collab/listeners: expected keys in UTF-8, found b'.*xc3'"),
        ("collab/listeners.npy", begin_inside, r"collab/listeners: expected keys in UTF-8, found b'.*xa9"),
        ("collab/listeners.npy", put(0, b""), "collab/listeners: expected keys that are not empty and have no NUL"),
        ("genre/artists.npy", put(3, b"a\0b"), "genre/artists: expected keys that are not empty and have no NUL"),
    ],
)  # fmt: skip
def test_array_with_wrong_values_is_refused(
    copy: Path, name: str, change: Callable[[np.ndarray], object], message: str
) -> None:
    change_array(copy, name, change)
    with pytest.raises(LayoutError, match=message):
        open_bundle(copy)


def test_a_track_with_very_many_ids_is_refused(copy: Path) -> None:
    """They would all be compared with the excluded ids of a request."""
    ids, rows = np.load(copy / "catalog/ids.npy"), np.load(copy / "catalog/id_rows.npy")
    more = np.array([f"~{i:04d}".encode() for i in range(257)])
    replace_array(copy, "catalog/ids.npy", np.concatenate([ids, more]).astype(ids.dtype))
    replace_array(copy, "catalog/id_rows.npy", np.concatenate([rows, np.full(257, 7, rows.dtype)]))
    edit(copy, lambda manifest: manifest["counts"].update(ids=len(ids) + 257))
    with pytest.raises(LayoutError, match="catalog/id_rows: expected at most 256 ids of a track, found 25"):
        open_bundle(copy)


def test_very_many_ids_of_all_tracks_are_refused(copy: Path) -> None:
    """Opening takes time for each id, and a file has many of them."""
    count = 4 * 3000 + 1_000_001
    ids = np.char.mod(b"%08d", np.arange(count))
    replace_array(copy, "catalog/ids.npy", ids)
    replace_array(copy, "catalog/id_rows.npy", np.zeros(count, "<i4"))
    edit(copy, lambda manifest: manifest["counts"].update(ids=count))
    with pytest.raises(LayoutError, match="at most 4 of each and 1,000,000 others, with 3,000 tracks, found 1,012,001"):
        open_bundle(copy)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3000, 15), np.float64),
        np.zeros((3000, 15), ">f4"),
        np.zeros((3000, 14), np.float32),
        np.zeros((15, 3000), np.float32),
        np.zeros(45_000, np.float32),
        np.asfortranarray(np.zeros((3000, 15), np.float32)),
        np.full((3000, 15), None, object),
    ],
)
def test_array_with_wrong_dtype_shape_or_order_is_refused(copy: Path, array: np.ndarray) -> None:
    replace_array(copy, "catalog/inputs.npy", array)
    with pytest.raises(LayoutError, match=r"catalog/inputs.npy: expected \(dtype, shape, Fortran order, version\)"):
        open_bundle(copy)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"\x80\x04pickled"])
def test_file_that_is_not_an_array_is_refused(copy: Path, content: bytes) -> None:
    (copy / "catalog" / "inputs.npy").write_bytes(content)
    agree(copy, "catalog/inputs.npy")
    with pytest.raises(LayoutError, match=r"catalog/inputs.npy: expected a .npy file of version 1.0"):
        open_bundle(copy)


def test_bytes_after_an_array_are_refused(copy: Path) -> None:
    with (copy / "catalog" / "moods.npy").open("ab") as file:
        file.write(b"more")
    agree(copy, "catalog/moods.npy")
    with pytest.raises(LayoutError, match="expected only "):
        open_bundle(copy)


@pytest.mark.parametrize("kind", ["IDMap,Flat", "IVF4,SQ8", "HNSW8", "SQ8"])
def test_index_of_another_kind_is_refused(copy: Path, kind: str) -> None:
    vectors = np.random.default_rng(0).random((3000, 28), np.float32)
    index = faiss.index_factory(28, kind, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    if kind.startswith("IDMap"):
        index.add_with_ids(vectors, np.arange(3000))
    else:
        index.add(vectors)
    faiss.write_index(index, str(copy / "content" / "index.faiss"))
    agree(copy, "content/index.faiss")
    with pytest.raises(LayoutError, match=r"content/index\.faiss: expected an index of the kind"):
        open_bundle(copy)


def put_lists(
    copy: Path,
    ids: np.ndarray,
    centres: faiss.Index | None = None,
    metric: int = faiss.METRIC_INNER_PRODUCT,
    nprobe: int = 4,
) -> None:
    """Replace the index of the content part by an IVF index of unit vectors with these ids."""
    vectors = np.random.default_rng(0).standard_normal((len(ids), 28)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(copy / "content" / "vectors.npy", vectors)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(28), 28, 16, metric)
    index.cp.min_points_per_centroid = 1
    index.train(vectors)
    index.add_with_ids(vectors, ids)
    index.nprobe = nprobe
    if centres is not None:
        index.quantizer = centres
    faiss.write_index(index, str(copy / "content" / "index.faiss"))
    agree(copy, "content/index.faiss")
    agree(copy, "content/vectors.npy")
    edit(copy, lambda m: m["indexes"]["content/index.faiss"].update(kind="ivf", nlist=16, nprobe=nprobe))


def test_ivf_index_is_read(copy: Path) -> None:
    put_lists(copy, np.arange(3000))
    index = open_bundle(copy).index("content/index.faiss")
    rows, cosines = index.nearest(index.vectors(np.array([77]))[0], 5)
    assert rows[0] == 77
    np.testing.assert_allclose(cosines[0], 1, atol=1e-5)
    assert sorted(index.nearest(index.vectors(np.array([5]))[0], 3000)[0]) == list(range(3000))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.zeros(3000, np.int64), "expected every row once"),
        (np.append(np.arange(2999), 5), "expected every row once"),
        (np.arange(3000) + 1, "expected every row once"),
        (np.arange(3000) - 1, "expected every row once"),
    ],
)
def test_ivf_index_with_repeated_or_missing_rows_is_refused(copy: Path, ids: np.ndarray, message: str) -> None:
    put_lists(copy, ids.astype(np.int64))
    with pytest.raises(LayoutError, match=message):
        open_bundle(copy)


def test_ivf_index_that_differs_from_the_manifest_is_refused(copy: Path) -> None:
    put_lists(copy, np.arange(3000))
    edit(copy, lambda m: m["indexes"]["content/index.faiss"].update(nprobe=8))
    with pytest.raises(LayoutError, match=r"nlist=16, nprobe=8\), found .*nlist=16, nprobe=4\)"):
        open_bundle(copy)


@pytest.mark.parametrize("nprobe", [0, 17])
def test_invalid_nprobe_is_refused(copy: Path, nprobe: int) -> None:
    put_lists(copy, np.arange(3000), nprobe=nprobe)
    with pytest.raises(BundleError, match="expected 1 to nlist of at most 32,768 lists"):
        open_bundle(copy)


def test_ivf_index_with_too_few_centroids_is_refused(copy: Path) -> None:
    centroids = faiss.IndexFlatIP(28)
    centroids.add(np.eye(28, dtype=np.float32)[:8])
    put_lists(copy, np.arange(3000), centroids)
    with pytest.raises(LayoutError, match=r"index\.faiss: vectors: expected 16, found 8"):
        open_bundle(copy)


def test_hnsw_centroids_are_refused(copy: Path) -> None:
    """FAISS follows the links of an HNSW graph without checks."""
    centroids = faiss.IndexHNSWFlat(28, 8, faiss.METRIC_INNER_PRODUCT)
    centroids.add(np.eye(28, dtype=np.float32)[:16])
    put_lists(copy, np.arange(3000), centroids)
    with pytest.raises(LayoutError, match=r"index\.faiss: expected an index of the kind 'IxFI'"):
        open_bundle(copy)


def test_index_with_another_metric_is_refused(copy: Path) -> None:
    put_lists(copy, np.arange(3000), metric=faiss.METRIC_L2)
    with pytest.raises(LayoutError, match=r"index\.faiss: metric: expected 0, found 1"):
        open_bundle(copy)


def test_centroid_with_nan_is_refused(copy: Path) -> None:
    centroids = faiss.IndexFlatIP(28)
    centroids.add(np.full((16, 28), np.nan, np.float32))
    put_lists(copy, np.arange(3000), centroids)
    with pytest.raises(LayoutError, match="expected finite centroids"):
        open_bundle(copy)


def test_content_vectors_of_another_length_are_refused(copy: Path) -> None:
    change_array(copy, "content/vectors.npy", lambda array: array.__imul__(2))
    with pytest.raises(LayoutError, match="content/vectors: expected vectors of length 1"):
        open_bundle(copy)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"IxFI" + b"\xff" * 40])
@pytest.mark.parametrize("name", ["mood/model.onnx", "content/index.faiss", "golden/cases.json"])
def test_file_of_another_kind_is_refused(copy: Path, name: str, content: bytes) -> None:
    (copy / name).write_bytes(content)
    agree(copy, name)
    with pytest.raises(LayoutError, match=name):
        Engine.open(copy)


def test_graph_with_other_ports_is_refused(copy: Path) -> None:
    (copy / "mood" / "model.onnx").write_bytes((copy / "ranker" / "model.onnx").read_bytes())
    agree(copy, "mood/model.onnx")
    with pytest.raises(LayoutError, match=r"mood/model.onnx: .*graph: expected the inputs \['features'\]"):
        Engine.open(copy)


@pytest.mark.parametrize("part", ["genre", "mood", "ranker"])
def test_wrong_graph_fails_the_golden_cases(copy: Path, part: str) -> None:
    """All weights differ a little, as after a wrong conversion without an error."""
    path = copy / part / "model.onnx"
    model = onnx.load(path)
    for initializer in model.graph.initializer:
        values = onnx.numpy_helper.to_array(initializer)
        if initializer.name.endswith("leaf_vectors") or (part != "genre" and values.ndim == 2):
            initializer.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.2), initializer.name))
    path.write_bytes(model.SerializeToString())
    agree(copy, f"{part}/model.onnx")
    open_bundle(copy)
    with pytest.raises(GoldenError, match=rf"golden \w+ case \d+: {part}: expected a difference of at most "):
        Engine.open(copy)


def test_nothing_is_ever_unpickled(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    Engine.open(copy)
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    (copy / "catalog" / "moods.npy").write_bytes(buffer.getvalue())
    agree(copy, "catalog/moods.npy")
    with pytest.raises(LayoutError):
        open_bundle(copy)


def change_golden(copy: Path, change: Callable[[dict], object]) -> None:
    content = json.loads((copy / "golden" / "cases.json").read_bytes())
    change(content)
    (copy / "golden" / "cases.json").write_text(json.dumps(content))
    agree(copy, "golden/cases.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.update(classify=[]), "expected 64 to 1,024 of each kind"),
        (lambda g: g["recommend"].pop(), "expected 64 to 1,024 of each kind"),
        (lambda g: g["tolerance"].update(genre=1.0), "expected a tolerance of at most 0.001"),
        (lambda g: g["tolerance"].update(mood=0), "expected a tolerance of at most 0.001"),
        (lambda g: g["tolerance"].pop("ranker"), "expected a tolerance of at most 0.001"),
        (lambda g: g["classify"][0].update(request={}), "golden classify cases 0 to 3: expected a bundle"),
        (lambda g: g["classify"][0]["expected"].update(genres=[]), "golden classify case 0"),
        (lambda g: g["classify"][0].update(request={"trackId": "no such track"}), "golden classify cases 0 to 3"),
        (lambda g: g["recommend"][0]["expected"]["recommendations"][0].update(contributions={}), "recommend case 0"),
    ],
)
def test_too_weak_golden_cases_are_refused(copy: Path, change: Callable[[dict], object], message: str) -> None:
    change_golden(copy, change)
    with pytest.raises(BundleError, match=message):
        Engine.open(copy)


def test_too_large_golden_cases_are_refused(copy: Path) -> None:
    with (copy / "golden" / "cases.json").open("ab") as file:
        file.write(b" " * 2**24)
    agree(copy, "golden/cases.json")
    with pytest.raises(LayoutError, match=r"golden/cases\.json: expected at most 4,194,304 bytes"):
        Engine.open(copy)
