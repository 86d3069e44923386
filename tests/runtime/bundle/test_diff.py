import hashlib
import json
from pathlib import Path

import msgspec
import numpy as np
from click.testing import CliRunner

from musix_runtime import Engine
from musix_runtime.bundle import manifest as manifests
from musix_runtime.bundle.manifest import File, Manifest
from musix_runtime.cli.main import musix
from musix_runtime.inspection.diff import compare
from musix_runtime.models.parts import open_bundle

SECTIONS = ("versions", "recipe", "data", "labels", "counts", "bytes", "quality")


def rewrite(bundle: Path, manifest: Manifest) -> Engine:
    """Return the engine of a changed bundle, without a check of its golden cases."""
    (bundle / "manifest.json").write_bytes(manifests.encode(manifest))
    return Engine.from_bundle(open_bundle(bundle))


def test_compare_a_bundle_with_itself(engine: Engine) -> None:
    result = compare(engine, engine)
    assert result.equal
    assert not any(getattr(result, name) for name in SECTIONS)
    for part, measures in result.outputs.items():
        for name, value in measures.items():
            if "difference" in name or "changes" in name:
                assert value == 0, (part, name)
            elif "overlap" in name or "same" in name:
                assert value == 1, (part, name)
            else:
                assert value > 0, (part, name)
    assert next(result.lines()) == "the same bundle, byte for byte"


def test_compare_reports_only_changes(engine: Engine, copy: Path) -> None:
    """Another order of the popular tracks changes the recommendations for unknown users, and those with filters."""
    file = copy / "catalog" / "popular.npy"
    unpopular = np.argsort(engine.retriever.popularity, kind="stable")[: len(engine.retriever.popular)]
    np.save(file, unpopular.astype(np.int32))
    manifest = engine.bundle.manifest
    content = file.read_bytes()
    entry = File(len(content), hashlib.sha256(content).hexdigest())
    files = manifest.files | {"catalog/popular.npy": entry}
    result = compare(engine, rewrite(copy, msgspec.structs.replace(manifest, files=files)))
    assert list(result.versions) == ["digest"]
    assert not any(getattr(result, name) for name in SECTIONS[1:])
    same = compare(engine, engine).outputs
    assert result.outputs["recommend"]["nobody, mean overlap of 10"] == 0
    assert result.outputs["recommend"]["nobody, share of the same list"] == 0
    assert {part: result.outputs[part] for part in same if part not in ("recommend", "golden")} == {
        part: same[part] for part in same if part not in ("recommend", "golden")
    }
    assert result.outputs["recommend"]["listeners, share of the same list"] == 1
    golden = result.outputs["golden"]
    assert golden["cases"] == 128
    assert golden["genre, largest difference"] == golden["mood, largest difference"] == 0
    assert golden["mean overlap of lists"] < 1


def test_compare_with_a_renamed_family(engine: Engine, copy: Path) -> None:
    manifest = engine.bundle.manifest
    was, *others = manifest.families
    renamed = msgspec.structs.replace(manifest, families=["renamed", *others])
    result = compare(engine, rewrite(copy, renamed))
    assert result.labels == {f"family {was}": (0, None), "family renamed": (None, 0)}
    assert result.outputs["genre"]["largest difference of confidence"] == 0
    assert 0 < result.outputs["genre"]["share whose first genre changes"] < 0.5
    assert result.outputs["mood"]["share whose first mood changes"] == 0


def test_diff_command_with_two_builds(demo_bundle: Path, small_bundle: Path) -> None:
    output = CliRunner().invoke(musix, ["diff", str(small_bundle), str(demo_bundle)], catch_exceptions=False)
    assert output.exit_code == 0
    assert '  -name = "small"\n' in output.stdout
    assert '  +name = "demo"\n' in output.stdout
    raw = CliRunner().invoke(musix, ["diff", str(small_bundle), str(demo_bundle), "--json"], catch_exceptions=False)
    result = json.loads(raw.stdout)
    assert result["equal"] is False
    assert result["versions"]["name"] == ["small", "demo"]
    assert result["counts"]["tracks"] == [800, 3000]
    assert result["data"]["tracks: recordings"] == [800, 3000]
    assert "total" in result["bytes"]
    assert result["quality"]["split.train_pairs"][0] < result["quality"]["split.train_pairs"][1]
    assert result["outputs"]["recommend"]["listeners"] == 64
    assert 0 < result["outputs"]["genre"]["largest difference of confidence"] <= 1


def test_compare_without_common_tracks_or_listeners(engine: Engine, copy: Path) -> None:
    manifest, files = engine.bundle.manifest, dict(engine.bundle.manifest.files)
    for name in ("catalog/ids", "catalog/track_ids", "collab/listeners"):
        file = copy / f"{name}.npy"
        keys = np.load(file)
        np.save(file, np.array([b"x" + key for key in keys]))
        content = file.read_bytes()
        files[f"{name}.npy"] = File(len(content), hashlib.sha256(content).hexdigest())
    result = compare(engine, rewrite(copy, msgspec.structs.replace(manifest, files=files))).outputs
    assert result["genre"] == {
        "tracks": 256,
        "largest difference of confidence": 0,
        "share whose first genre changes": 0,
    }
    assert result["collab"] == {"listeners": 0}
    assert result["content"] == {"tracks": 0}
    assert result["recommend"]["listeners"] == result["recommend"]["current tracks"] == 0
    assert result["recommend"]["nobody, mean overlap of 10"] == 0
