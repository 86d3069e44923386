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
from musix_runtime.inspection.diff import diff
from musix_runtime.models.parts import open_bundle

SECTIONS = ("versions", "recipe", "data", "labels", "counts", "bytes", "quality")


def rewrite(bundle: Path, manifest: Manifest) -> Engine:
    """The engine of a changed bundle, whose golden cases it need not meet any more."""
    (bundle / "manifest.json").write_bytes(manifests.encode(manifest))
    return Engine.from_bundle(open_bundle(bundle))


def test_a_bundle_and_itself_do_not_differ(engine: Engine) -> None:
    found = diff(engine, engine)
    assert found.equal
    assert not any(getattr(found, name) for name in SECTIONS)
    for part, measures in found.outputs.items():
        for name, value in measures.items():
            if "difference" in name or "changes" in name:
                assert value == 0, (part, name)
            elif "overlap" in name or "same" in name:
                assert value == 1, (part, name)
            else:
                assert value > 0, (part, name)
    assert next(found.lines()) == "the same bundle, byte for byte"


def test_only_what_was_changed_differs(engine: Engine, copy: Path) -> None:
    """Another order of the popular tracks changes what nobody in particular is told, and nothing else."""
    file = copy / "catalog" / "popular.npy"
    least = np.argsort(engine.retriever.popularity, kind="stable")[: len(engine.retriever.popular)]
    np.save(file, least.astype(np.int32))
    manifest = engine.bundle.manifest
    content = file.read_bytes()
    entry = File(len(content), hashlib.sha256(content).hexdigest())
    files = manifest.files | {"catalog/popular.npy": entry}
    found = diff(engine, rewrite(copy, msgspec.structs.replace(manifest, files=files)))
    assert list(found.versions) == ["digest"]
    assert not any(getattr(found, name) for name in SECTIONS[1:])
    same = diff(engine, engine).outputs
    assert found.outputs["recommend"]["nobody, mean overlap of 10"] == 0
    assert found.outputs["recommend"]["nobody, share of the same list"] == 0
    assert {part: found.outputs[part] for part in same if part not in ("recommend", "golden")} == {
        part: same[part] for part in same if part not in ("recommend", "golden")
    }
    assert found.outputs["recommend"]["listeners, share of the same list"] == 1
    golden = found.outputs["golden"]
    assert golden["cases"] == 128
    assert {name for name, value in golden.items() if value and "difference" in name} == set()
    assert golden["mean overlap of lists"] < 1


def test_a_family_of_another_name_is_another_answer(engine: Engine, copy: Path) -> None:
    manifest = engine.bundle.manifest
    was, *others = manifest.families
    renamed = msgspec.structs.replace(manifest, families=["renamed", *others])
    found = diff(engine, rewrite(copy, renamed))
    assert found.labels == {f"family {was}": (0, None), "family renamed": (None, 0)}
    assert found.outputs["genre"]["largest difference of confidence"] == 0
    assert 0 < found.outputs["genre"]["share whose first genre changes"] < 0.5
    assert found.outputs["mood"]["share whose first mood changes"] == 0


def test_two_builds_are_told_apart_on_the_terminal(demo_bundle: Path, small_bundle: Path) -> None:
    told = CliRunner().invoke(musix, ["diff", str(small_bundle), str(demo_bundle)], catch_exceptions=False)
    assert told.exit_code == 0
    assert '  -name = "small"\n' in told.stdout
    assert '  +name = "demo"\n' in told.stdout
    raw = CliRunner().invoke(musix, ["diff", str(small_bundle), str(demo_bundle), "--json"], catch_exceptions=False)
    found = json.loads(raw.stdout)
    assert found["equal"] is False
    assert found["versions"]["name"] == ["small", "demo"]
    assert found["counts"]["tracks"] == [800, 3000]
    assert found["data"]["tracks: recordings"] == [800, 3000]
    assert "total" in found["bytes"]
    assert found["quality"]["split.train_pairs"][0] < found["quality"]["split.train_pairs"][1]
    assert found["outputs"]["recommend"]["listeners"] == 64
    assert 0 < found["outputs"]["genre"]["largest difference of confidence"] <= 1


def test_bundles_without_a_common_track_or_listener_are_compared_by_features(engine: Engine, copy: Path) -> None:
    manifest, files = engine.bundle.manifest, dict(engine.bundle.manifest.files)
    for name in ("catalog/ids", "catalog/track_ids", "collab/listeners"):
        file = copy / f"{name}.npy"
        keys = np.load(file)
        np.save(file, np.array([b"x" + key for key in keys]))
        content = file.read_bytes()
        files[f"{name}.npy"] = File(len(content), hashlib.sha256(content).hexdigest())
    found = diff(engine, rewrite(copy, msgspec.structs.replace(manifest, files=files))).outputs
    assert found["genre"] == {
        "tracks": 256,
        "largest difference of confidence": 0,
        "share whose first genre changes": 0,
    }
    assert found["collab"] == {"listeners": 0}
    assert found["content"] == {"tracks": 0}
    assert found["recommend"]["listeners"] == found["recommend"]["current tracks"] == 0
    assert found["recommend"]["nobody, mean overlap of 10"] == 0
