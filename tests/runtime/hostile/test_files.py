"""Files that differ from the manifest are refused with specific errors, before they are parsed."""

import os
from pathlib import Path

import pytest

from musix_runtime import Engine
from musix_runtime.bundle.archive import ALIGNMENT
from musix_runtime.errors import (
    BundleError,
    ExtraFileError,
    FileKindError,
    HashError,
    ManifestError,
    MissingFileError,
    OutputError,
    SizeError,
)
from musix_runtime.models.parts import LAYOUT, open_bundle


@pytest.fixture
def packed(demo_bundle: Path, tmp_path: Path) -> Path:
    open_bundle(demo_bundle).pack(tmp_path / "demo.musix")
    return tmp_path / "demo.musix"


def flip(path: Path, place: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", sorted(LAYOUT.files))
def test_a_flipped_byte(copy: Path, name: str) -> None:
    flip(copy / name)
    with pytest.raises(HashError, match=f"{name}: expected SHA-256 [0-9a-f]+, found [0-9a-f]+"):
        open_bundle(copy)


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c + b"\0", lambda c: b""])
def test_a_truncated_or_grown_file(copy: Path, change) -> None:
    file = copy / "mood" / "model.onnx"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(SizeError, match=r"mood/model.onnx: expected [\d,]+ bytes, found [\d,]+"):
        open_bundle(copy)


def test_a_missing_file(copy: Path) -> None:
    (copy / "mood" / "model.onnx").unlink()
    with pytest.raises(MissingFileError, match=r"mood/model.onnx: expected a file, found nothing"):
        open_bundle(copy)


@pytest.mark.parametrize("name", ["extra", "mood/extra.onnx", "mood/MODEL.ONNX", "catalog/ids.npy.bak", ".hidden"])
def test_an_extra_file(copy: Path, name: str) -> None:
    (copy / name).touch()
    with pytest.raises(ExtraFileError, match=name):
        open_bundle(copy)


@pytest.mark.parametrize("name", [".gitattributes", ".git/HEAD", "lost+found/", ".DS_Store", "README.md"])
def test_files_of_other_tools_are_refused_with_a_hint(copy: Path, name: str) -> None:
    path = copy / name
    path.parent.mkdir(exist_ok=True)
    if name.endswith("/"):
        path.mkdir()
    else:
        path.touch()
    with pytest.raises(ExtraFileError, match=r"found this one; remove it, or move the bundle to a folder"):
        open_bundle(copy)


def test_bundle_of_links_is_refused_with_a_hint(copy: Path, tmp_path: Path) -> None:
    """All files are links to blobs, as in the cache of a model hub."""
    for file in [item for item in copy.rglob("*") if item.is_file()]:
        link = tmp_path / "snapshot" / file.relative_to(copy)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    with pytest.raises(
        FileKindError, match=r"manifest.json: expected a plain file or folder, found a link; copy .* cp -rL"
    ):
        open_bundle(tmp_path / "snapshot")
    open_bundle(copy).pack(tmp_path / "one.musix")
    (tmp_path / "link.musix").symlink_to(tmp_path / "one.musix")
    open_bundle(tmp_path / "link.musix")


@pytest.mark.parametrize("name", ["manifest.json", "signature.json", "mood/model.onnx"])
def test_pipe_does_not_block(copy: Path, name: str) -> None:
    (copy / name).unlink(missing_ok=True)
    os.mkfifo(copy / name)
    with pytest.raises(FileKindError, match=f"{name}: expected a plain file, found a folder, pipe or device"):
        open_bundle(copy)


def test_an_extra_folder(copy: Path) -> None:
    (copy / "more").mkdir()
    with pytest.raises(ExtraFileError, match="more"):
        open_bundle(copy)


def test_links_and_devices(copy: Path, tmp_path: Path) -> None:
    file = copy / "mood" / "model.onnx"
    file.rename(tmp_path / "model.onnx")
    file.symlink_to(tmp_path / "model.onnx")
    with pytest.raises(FileKindError, match=r"mood/model.onnx: expected a plain file or folder, found a link"):
        open_bundle(copy)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(FileKindError, match=r"mood/model.onnx: expected a plain file"):
        open_bundle(copy)


def test_a_folder_that_is_a_link(copy: Path, tmp_path: Path) -> None:
    (copy / "mood").rename(tmp_path / "mood")
    (copy / "mood").symlink_to(tmp_path / "mood")
    with pytest.raises(FileKindError, match="mood: expected a plain file or folder, found a link"):
        open_bundle(copy)


def test_a_manifest_that_is_a_link(copy: Path, tmp_path: Path) -> None:
    (copy / "manifest.json").rename(tmp_path / "manifest.json")
    (copy / "manifest.json").symlink_to(tmp_path / "manifest.json")
    with pytest.raises(FileKindError, match=r"manifest.json: expected a plain file"):
        open_bundle(copy)


def test_path_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected a bundle folder or file, found nothing"):
        open_bundle(tmp_path / "none")
    with pytest.raises(FileKindError, match="expected a plain file, found a folder, pipe or device"):
        open_bundle(Path("/dev/null"))
    with pytest.raises(MissingFileError, match=r"expected a bundle with manifest.json, found a folder of nothing"):
        open_bundle(tmp_path)
    for name in ("1.0.0", "live"):  # as in a registry
        (tmp_path / name).mkdir()
    with pytest.raises(MissingFileError, match=r"expected a bundle with manifest.json, found a folder of 1.0.0, live"):
        open_bundle(tmp_path)
    for content in (b"", b"PK", b"x" * 1000):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(BundleError, match="found another file"):
            open_bundle(tmp_path / "file")


def test_a_packed_bundle_answers_like_its_folder(demo_bundle: Path, packed: Path, tmp_path: Path) -> None:
    folder, file = open_bundle(demo_bundle), open_bundle(packed)
    assert folder.digest == file.digest
    assert {name: view.tobytes() for name, view in folder.views.items()} == {
        n: v.tobytes() for n, v in file.views.items()
    }
    assert all(view.ctypes.data % ALIGNMENT == 0 for view in file.views.values())
    file.unpack(tmp_path / "again")
    again = open_bundle(tmp_path / "again")
    assert again.digest == folder.digest
    again.pack(tmp_path / "again.musix")
    assert (tmp_path / "again.musix").read_bytes() == packed.read_bytes()
    Engine.open(packed)


@pytest.mark.parametrize("cut", [1, 63, 64, 1000, 10**6])
def test_a_truncated_or_padded_packed_file(packed: Path, cut: int) -> None:
    content = packed.read_bytes()
    for changed in (content[:-cut], content + bytes(cut)):
        packed.write_bytes(changed)
        with pytest.raises(SizeError, match=r"expected [\d,]+ bytes, found [\d,]+"):
            open_bundle(packed)


def test_a_packed_file_cut_within_its_head(packed: Path) -> None:
    content = packed.read_bytes()
    for length in (1, 8, 23, 24, 500):
        packed.write_bytes(content[:length])
        with pytest.raises(BundleError):
            open_bundle(packed)


def test_bytes_between_the_files_of_a_packed_bundle_are_refused(packed: Path) -> None:
    bundle = open_bundle(packed)
    head = 24 + len(bundle.container.manifest)
    assert head % ALIGNMENT
    flip(packed, head)
    with pytest.raises(BundleError, match="expected zeros in bytes"):
        open_bundle(packed)


def test_packed_file_with_huge_lengths_is_refused(packed: Path) -> None:
    content = bytearray(packed.read_bytes())
    content[8:16] = b"\xff" * 8
    packed.write_bytes(content)
    with pytest.raises(ManifestError, match="expected a manifest of at most"):
        open_bundle(packed)


def test_pack_does_not_overwrite(demo_bundle: Path, packed: Path) -> None:
    with pytest.raises(OutputError, match="expected a free name"):
        open_bundle(demo_bundle).pack(packed)


@pytest.mark.parametrize("act", ["pack", "unpack"])
def test_nothing_is_written_into_the_bundle(copy: Path, act: str) -> None:
    opened = open_bundle(copy)
    with pytest.raises(OutputError, match="expected a place outside of the bundle"):
        getattr(opened, act)(copy / "again")
    open_bundle(copy)
