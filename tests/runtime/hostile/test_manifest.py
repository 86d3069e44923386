"""Wrong manifests are refused with their key, before any file is opened."""

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from musix_runtime.bundle.manifest import schema
from musix_runtime.errors import BundleError, FormatVersionError, ManifestError
from musix_runtime.models.parts import open_bundle
from tests.conftest import ROOT
from tests.runtime.hostile.build import edit, read_manifest

CASES: list[tuple[Callable[[dict], object], type[BundleError], str]] = [
    (
        lambda m: m.update(format_version=6),
        FormatVersionError,
        "format_version: expected 7, found 6; read the bundle with",
    ),
    (lambda m: m.update(format="zip"), ManifestError, "expected 'musix-bundle', found 'zip'"),
    (lambda m: m.update(surprise=1), ManifestError, "unknown field `surprise`"),
    (lambda m: m.update(name="a\r\nX-Evil: 1"), ManifestError, r"name"),
    (lambda m: m.update(name="../up"), ManifestError, r"name"),
    (lambda m: m.update(version="1.0"), ManifestError, r"version"),
    (lambda m: m["files"].pop("mood/model.onnx"), ManifestError, r"found \['mood/model.onnx'\] missing"),
    (lambda m: m["files"].update({"../x": m["files"]["mood/model.onnx"]}), ManifestError, r"\['../x'\] unknown"),
    (lambda m: m["files"].update({"/etc/x": m["files"]["mood/model.onnx"]}), ManifestError, r"\['/etc/x'\] unknown"),
    (lambda m: m["files"].update({"Mood/Model.onnx": m["files"]["mood/model.onnx"]}), ManifestError, "unknown"),
    (lambda m: m["files"]["mood/model.onnx"].update(bytes=-1), ManifestError, "bytes"),
    (lambda m: m["files"]["mood/model.onnx"].update(sha256="0" * 63), ManifestError, "sha256"),
    (lambda m: m["features"].reverse(), ManifestError, "features: expected"),
    (lambda m: m["features"][0].update(high=2.0), ManifestError, "features: expected"),
    (lambda m: m["moods"].pop(), ManifestError, "moods: expected"),
    (lambda m: m["components"].reverse(), ManifestError, "components: expected"),
    (lambda m: m["families"].append(m["families"][0]), ManifestError, "families: expected 1 to 32 different names"),
    (lambda m: m["families"].pop(), BundleError, "found"),
    (lambda m: m["serving"].update(blend={}), ManifestError, "serving.blend: expected"),
    (lambda m: m["serving"].update(candidates=0), ManifestError, "candidates"),
    (lambda m: m["counts"].update(tracks=-1), ManifestError, "counts"),
    (lambda m: m["counts"].pop("tracks"), ManifestError, "counts: expected 'tracks' among them"),
    (lambda m: m["counts"].update(tracks=10**9), BundleError, "found"),
    (lambda m: m["counts"].update(tracks=0), ManifestError, "counts: tracks: expected range"),
    (lambda m: m["counts"].update(ids=0), ManifestError, "counts: ids: expected range"),
    (lambda m: m["counts"].update(surprise=1), ManifestError, "counts: expected"),
    (lambda m: m["counts"].update(artists=2**47, genre_width=2**17), ManifestError, "counts: artists: expected range"),
    (lambda m: m["serving"].update(candidates=1001), ManifestError, "candidates"),
    (lambda m: m["families"].__setitem__(0, ""), ManifestError, "families: expected"),
    (lambda m: m["families"].__setitem__(0, "a" * 65), ManifestError, "different names of at most 64 characters"),
    (lambda m: m["families"].__setitem__(0, "a\x1b[2J"), ManifestError, "families: expected"),
    (lambda m: m.update(quality={"genre": 1}), ManifestError, "quality"),
    (lambda m: m.update(quality={"genre": {"a": [[[[[[[[[1]]]]]]]]]}}), ManifestError, "quality: expected a depth"),
    (
        lambda m: m["indexes"]["content/index.faiss"].update(kind="ivf", nlist=4, nprobe=5),
        ManifestError,
        "lists to search",
    ),
    (
        lambda m: m["indexes"]["content/index.faiss"].update(kind="ivf", nlist=32_769, nprobe=5),
        ManifestError,
        "expected 1 to nlist of at most 32,768 lists to search",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), CASES)
def test_wrong_manifest_is_refused(
    copy: Path, change: Callable[[dict], object], error: type[BundleError], message: str
) -> None:
    edit(copy, change)
    with pytest.raises(error, match=message):
        open_bundle(copy)


@pytest.mark.parametrize("key", ["format", "moods", "families", "counts", "files", "unknown"])
def test_message_on_a_huge_value_is_short(copy: Path, key: str) -> None:
    huge = "x" * 1_000_000
    value = {huge: 1} if key in ("counts", "files") else huge if key == "format" else [huge]
    edit(copy, lambda manifest: manifest.update({key: value} if key != "unknown" else {huge: 1}))
    with pytest.raises(BundleError) as caught:
        open_bundle(copy)
    assert len(str(caught.value)) <= 2001


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b'{"a":' * 50_000, b"\0" * 100])
def test_file_that_is_not_a_manifest_is_refused(copy: Path, content: bytes) -> None:
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(ManifestError):
        open_bundle(copy)


def test_huge_manifest_is_not_read(copy: Path) -> None:
    with (copy / "manifest.json").open("r+b") as file:
        file.truncate(200 * 2**20)
    with pytest.raises(ManifestError, match=r"expected at most 2,097,152 bytes, found 209,715,200"):
        open_bundle(copy)


def test_manifest_in_another_form_is_refused(copy: Path) -> None:
    (copy / "manifest.json").write_text(json.dumps(read_manifest(copy)))
    with pytest.raises(ManifestError, match="expected the canonical form"):
        open_bundle(copy)


def test_manifest_with_a_repeated_key_is_refused(copy: Path) -> None:
    content = (copy / "manifest.json").read_bytes()
    (copy / "manifest.json").write_bytes(content.replace(b'"name": "demo"', b'"name": "other",\n  "name": "demo"'))
    with pytest.raises(ManifestError, match="expected the canonical form"):
        open_bundle(copy)


def test_manifest_matches_the_shipped_schema(demo_bundle: Path) -> None:
    shipped = json.loads((ROOT / "bundles" / "manifest.schema.json").read_bytes())
    assert shipped == json.loads(schema())
    jsonschema.validate(read_manifest(demo_bundle), shipped)
    for change, _, _ in CASES[2:7]:
        manifest = read_manifest(demo_bundle)
        change(manifest)
        if change is not CASES[6][0]:
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(manifest, shipped)
