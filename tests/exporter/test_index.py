from pathlib import Path

import numpy as np
import pytest

from musix_exporter import index
from musix_exporter.bundle_writer import BundleWriter, PartWriter
from musix_runtime import Engine, RecommendRequest
from musix_runtime.bundle.manifest import IndexInfo
from musix_runtime.models.index import Description, Index
from musix_runtime.models.parts import LAYOUT
from musix_trainer import recipe


def clusters(rows: int, width: int, count: int) -> np.ndarray:
    """Return vectors around `count` centres, at a tenth of the distance between the centres."""
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((count, width))
    drawn = centres[rng.integers(0, count, rows)] + 0.1 * rng.standard_normal((rows, width))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def add(folder: Path, vectors: np.ndarray, queries: np.ndarray, at: int, **settings: float) -> IndexInfo:
    fields = {"name": "demo", "version": "1.0.0", "source": "synthetic", "ranker": recipe.Ranker(candidates=at)}
    writer = PartWriter("content", BundleWriter(folder, LAYOUT))
    return index.add(
        "index", "vectors", vectors, queries, recipe.Recipe(**fields, index=recipe.Index(**settings)), writer
    )


def test_small_index_is_flat(tmp_path: Path) -> None:
    vectors = clusters(500, 28, 10)
    search = add(tmp_path, vectors, vectors[:5], 10)
    assert (search.kind, search.recall) == ("flat", 1.0)


def test_large_index_is_ivf_with_measured_recall(tmp_path: Path) -> None:
    vectors = clusters(20_000, 28, 100)
    queries = clusters(200, 28, 100)
    search = add(tmp_path, vectors, queries, 50, exact=1, recall=0.9)
    assert (search.kind, search.queries, search.at) == ("ivf", 200, 50)
    assert 0.9 <= search.recall <= 1
    result = Index.read(vectors, np.fromfile(tmp_path / "content" / "index.faiss", np.uint8))
    assert result.description == Description("ivf", search.nlist, search.nprobe)
    exact = Index(vectors)
    shared = [np.isin(result.nearest(query, 50)[0], exact.nearest(query, 50)[0]).mean() for query in queries]
    assert np.mean(shared) == pytest.approx(search.recall)


def test_all_vectors_are_searched_without_clusters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Vectors without clusters: a quarter of the lists does not hold all of the nearest."""
    vectors = clusters(2000, 28, 2000)
    search = add(tmp_path, vectors, vectors[:50], 50, exact=1, recall=1.0)
    assert (search.kind, search.recall) == ("flat", 1.0)
    assert "content/index.faiss: all vectors are searched" in capsys.readouterr().err


def test_ivf_bundle_answers_nearly_like_a_flat_one(small_bundle: Path, ivf_bundle: Path) -> None:
    flat, clustered = Engine.open(small_bundle), Engine.open(ivf_bundle)
    assert {item.kind for item in clustered.bundle.manifest.indexes.values()} == {"ivf"}
    shared = []
    for number in range(0, 100, 4):
        request = RecommendRequest(user_id=f"listener-{number:03d}")
        lists = [{item.id for item in asked.recommend(request).recommendations} for asked in (flat, clustered)]
        shared.append(len(lists[0] & lists[1]) / 10)
    assert np.mean(shared) > 0.65
