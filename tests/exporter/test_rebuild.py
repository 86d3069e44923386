import hashlib
import json
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
    """The bundle with another origin written into its manifest."""
    manifest = open_bundle(bundle).manifest
    other = msgspec.structs.replace(manifest.provenance, **provenance)
    encoded = manifests.encode(msgspec.structs.replace(manifest, provenance=other))
    (bundle / "manifest.json").write_bytes(encoded)
    return open_bundle(bundle)


def test_a_bundle_is_built_again_from_itself(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # as the recipe of the first build, in no git repository
    found = CliRunner().invoke(cli.rebuild, [str(small_bundle), "--json"], catch_exceptions=False)
    result = json.loads(found.stdout)
    assert result["equal"] is True
    assert result["rebuilt"] == open_bundle(small_bundle).digest
    assert found.exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_every_cause_is_named(demo_bundle: Path, copy: Path) -> None:
    first = open_bundle(demo_bundle)
    origin = first.manifest.provenance
    listening = msgspec.structs.replace(origin.sources["listening"], sha256="0" * 64)
    sources = origin.sources | {"listening": listening}
    packages = origin.packages | {"torch": "1.0"}
    again = changed(copy, sources=sources, packages=packages, recipe_sha256="1" * 64, git_commit="2" * 40)
    found = rebuild.compare(first, again)
    assert not found.equal
    assert found.files == []
    assert found.manifest == ["provenance"]
    assert [each.partition(":")[0] for each in found.reasons] == [
        "recipe text, SHA-256",
        "data, listening, SHA-256",
        "package torch",
        "git commit",
    ]
    assert f"package torch: was {origin.packages['torch']}, is 1.0" in found.text()
    with pytest.raises(RebuildError, match=f"expected digest {first.digest}, found {again.digest}; reasons: recipe"):
        found.check()


def test_files_that_differ_without_a_cause_are_said_to(demo_bundle: Path) -> None:
    first = open_bundle(demo_bundle)
    files = first.manifest.files | {"mood/model.onnx": manifests.File(1, "0" * 64)}
    other = replace(first, manifest=msgspec.structs.replace(first.manifest, files=files), digest="another")
    found = rebuild.compare(first, other)
    assert found.files == ["mood/model.onnx"]
    assert found.reasons == [rebuild.UNEXPLAINED]


def test_a_recipe_that_is_not_the_one_that_was_hashed_is_refused(copy: Path) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.json: provenance\.recipe: expected SHA-256 "):
        rebuild.rebuild(changed(copy, recipe="name = 'other'"), None)


def test_the_tables_of_a_bundle_have_to_be_given(copy: Path) -> None:
    text = 'name = "a"\nversion = "1.0.0"\nsource = "tables"\n'
    bundle = changed(copy, recipe=text, recipe_sha256=hashlib.sha256(text.encode()).hexdigest())
    found = CliRunner().invoke(cli.rebuild, [str(bundle.path)])
    assert str(found.exception) == "a: this recipe reads tables: pass their folder with --data"
