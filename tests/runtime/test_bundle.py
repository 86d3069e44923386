import json
from collections.abc import Callable
from pathlib import Path

import pytest

from musix_runtime.bundle import Bundle
from musix_runtime.errors import (
    BundleError,
    ExtraFileError,
    FileKindError,
    FormatVersionError,
    HashError,
    LayoutError,
    ManifestError,
    MissingFileError,
    SizeError,
)
from musix_runtime.manifest import LAYOUT


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((path / "manifest.json").read_bytes())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_a_good_bundle_opens(demo_bundle: Path) -> None:
    bundle = Bundle.open(demo_bundle)
    assert bundle.label == f"demo-1.0.0@{bundle.digest}"


@pytest.mark.parametrize("name", sorted(LAYOUT))
def test_a_flipped_byte_is_refused_in_every_file(copy: Path, name: str) -> None:
    flip(copy / name)
    with pytest.raises(HashError, match=f"{name}: expected SHA-256 [0-9a-f]+, found [0-9a-f]+"):
        Bundle.open(copy)


def test_files_that_are_not_as_listed_are_refused_by_name(copy: Path) -> None:
    file = copy / "mood" / "model.onnx"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(SizeError, match=r"mood/model.onnx: expected [\d,]+ bytes, found [\d,]+"):
        Bundle.open(copy)
    file.unlink()
    with pytest.raises(MissingFileError, match=r"mood/model.onnx: expected a file, found nothing"):
        Bundle.open(copy)
    file.symlink_to("/dev/null")
    with pytest.raises(FileKindError, match=r"mood/model.onnx: expected a plain file"):
        Bundle.open(copy)
    file.unlink()
    file.write_bytes(content)
    (copy / "mood" / "extra").touch()
    with pytest.raises(ExtraFileError, match="mood/extra"):
        Bundle.open(copy)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected a bundle folder, found nothing"):
        Bundle.open(tmp_path / "none")
    with pytest.raises(MissingFileError, match=r"manifest.json: expected a file, found nothing"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: m.update(format_version=2), FormatVersionError, "this runtime reads version 1, found 2"),
        (lambda m: m.update(format="zip"), ManifestError, "expected 'musix-bundle', found 'zip'"),
        (lambda m: m.update(surprise=1), ManifestError, "unknown field `surprise`"),
        (lambda m: m["files"].pop("mood/model.onnx"), ManifestError, r"lacks \['mood/model.onnx'\]"),
        (lambda m: m["files"].update({"../x": {"bytes": 1, "sha256": ""}}), ManifestError, r"unknown \['../x'\]"),
        (lambda m: m["features"].reverse(), ManifestError, "features: expected"),
        (lambda m: m["moods"].pop(), ManifestError, "moods: expected"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    copy: Path, change: Callable[[dict], object], error: type[BundleError], message: str
) -> None:
    edit(copy, change)
    with pytest.raises(error, match=message):
        Bundle.open(copy)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_manifest_that_is_no_manifest_is_refused(copy: Path, content: bytes) -> None:
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(ManifestError):
        Bundle.open(copy)


def test_arrays_must_have_the_shape_that_the_counts_say(copy: Path) -> None:
    edit(copy, lambda m: m["counts"].update(tracks=m["counts"]["tracks"] + 1))
    with pytest.raises(LayoutError, match=r"inputs.npy: expected <f4 \(3001, 15\) in C order, found <f4 \(3000, 15\)"):
        Bundle.open(copy).array("catalog/inputs.npy")
    with pytest.raises(LayoutError, match=r"index.faiss: expected \(rows, width, metric\)"):
        Bundle.open(copy).index("content/index.faiss")
