import hashlib
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from musix_exporter import cli, rebuild
from musix_runtime.bundle import manifest as manifests
from musix_runtime.bundle.reader import Bundle
from musix_runtime.errors import ManifestError, RebuildError
from musix_runtime.models.parts import open_bundle


def changed(bundle: Path, **provenance: object) -> Bundle:
    """Return the bundle with another provenance in its manifest."""
    manifest = open_bundle(bundle).manifest
    other = msgspec.structs.replace(manifest.provenance, **provenance)
    encoded = manifests.encode(msgspec.structs.replace(manifest, provenance=other))
    (bundle / "manifest.json").write_bytes(encoded)
    return open_bundle(bundle)


def test_compare_reports_all_causes(demo_bundle: Path, copy: Path) -> None:
    first = open_bundle(demo_bundle)
    origin = first.manifest.provenance
    listening = msgspec.structs.replace(origin.sources["listening"], sha256="0" * 64)
    sources = origin.sources | {"listening": listening}
    packages = origin.packages | {"torch": "1.0"}
    text = f"{origin.recipe}# another"
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    again = changed(copy, sources=sources, packages=packages, recipe=text, recipe_sha256=sha256, git_commit="2" * 40)
    results = rebuild.compare(first, again)
    assert not results.equal
    assert results.files == []
    assert results.manifest == ["provenance"]
    assert [item.partition(":")[0] for item in results.reasons] == [
        "recipe text, SHA-256",
        "data, listening, SHA-256",
        "package torch",
        "git commit",
    ]
    assert f"package torch: was {origin.packages['torch']}, is 1.0" in "\n".join(results.lines())
    with pytest.raises(RebuildError, match=f"expected digest {first.digest}, found {again.digest}; reasons: recipe"):
        results.check()


def test_compare_without_a_known_cause(demo_bundle: Path) -> None:
    first = open_bundle(demo_bundle)
    files = first.manifest.files | {"mood/model.onnx": manifests.File(1, "0" * 64)}
    other = replace(first, manifest=msgspec.structs.replace(first.manifest, files=files), digest="another")
    results = rebuild.compare(first, other)
    assert results.files == ["mood/model.onnx"]
    assert results.reasons == [rebuild.UNKNOWN_CAUSE]


def test_recipe_with_another_hash_is_refused(copy: Path) -> None:
    with pytest.raises(ManifestError, match=r"provenance\.recipe: expected SHA-256 "):
        changed(copy, recipe="name = 'other'")


def test_recipe_longer_than_a_recipe_may_be_is_refused(copy: Path) -> None:
    """Its keys or lines could keep `musix rebuild` and `diff` busy for minutes."""
    text = "a." * 10_000 + "b = 1"
    with pytest.raises(ManifestError, match=r"provenance\.recipe: expected at most 16,384 bytes, found 20,005"):
        changed(copy, recipe=text, recipe_sha256=hashlib.sha256(text.encode()).hexdigest())


def test_wrong_recipe_is_refused(copy: Path) -> None:
    text = 'name = "a"\nversion = "1.0.0"\nsource = "synthetic"\n[collab]\nepochs = 1000000000\n'
    bundle = changed(copy, recipe=text, recipe_sha256=hashlib.sha256(text.encode()).hexdigest())
    results = CliRunner().invoke(cli.rebuild, [str(bundle.path)])
    assert isinstance(results.exception, ManifestError)
    place = f"{bundle.path}/manifest.json: provenance.recipe: collab.epochs"
    assert str(results.exception) == f"{place}: expected int <= 10000, found 1000000000"


def test_rebuild_without_tables_is_refused(copy: Path) -> None:
    text = 'name = "a"\nversion = "1.0.0"\nsource = "tables"\n'
    bundle = changed(copy, recipe=text, recipe_sha256=hashlib.sha256(text.encode()).hexdigest())
    results = CliRunner().invoke(cli.rebuild, [str(bundle.path)])
    assert str(results.exception) == "a: this recipe reads tables: pass their folder with --data"
