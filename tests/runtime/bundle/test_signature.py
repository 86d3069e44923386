from pathlib import Path

import pytest

from musix_runtime import Engine
from musix_runtime.bundle import signature
from musix_runtime.bundle.manifest import SIGNATURE
from musix_runtime.errors import BundleError, InputError, SignatureError
from musix_runtime.models.parts import open_bundle


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return signature.generate(tmp_path / "ours")


def signed(bundle: Path, private: Path) -> Path:
    (bundle / SIGNATURE).write_bytes(signature.sign(open_bundle(bundle).digest, private))
    return bundle


def test_signed_bundle_opens_as_folder_and_file(copy: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    bundle = open_bundle(signed(copy, private), public)
    bundle.pack(tmp_path / "demo.musix")
    Engine.open(tmp_path / "demo.musix", public)
    open_bundle(tmp_path / "demo.musix").unpack(tmp_path / "again")
    assert open_bundle(tmp_path / "again", public).digest == bundle.digest
    assert private.stat().st_mode & 0o077 == 0


def test_trust_refuses_unsigned_bundles_and_other_keys(copy: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    with pytest.raises(SignatureError, match="expected a signature by the trusted key, found none"):
        open_bundle(copy, public)
    _, other = signature.generate(tmp_path / "theirs")
    with pytest.raises(SignatureError, match="expected an ed25519 signature by"):
        open_bundle(signed(copy, private), other)
    open_bundle(copy)  # not asked for, a signature is not looked at


def test_signature_is_checked_before_parsing(copy: Path, keys: tuple[Path, Path]) -> None:
    signed(copy, keys[0])
    (copy / "manifest.json").write_bytes(b"[" * 1000)
    with pytest.raises(SignatureError):
        open_bundle(copy, keys[1])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"ed25519"', b'"none"'),
        (b'"key": "', b'"key": "0'),
        (b'"algorithm"', b'"extra": 1, "algorithm"'),
        (b'"algorithm"', b'"algorithm": "none", "algorithm"'),
        (b"  ", b" "),
    ],
)
def test_valid_signature_in_another_form_is_refused(
    copy: Path, keys: tuple[Path, Path], old: bytes, new: bytes
) -> None:
    content = (signed(copy, keys[0]) / SIGNATURE).read_bytes()
    assert old in content
    (copy / SIGNATURE).write_bytes(content.replace(old, new))
    with pytest.raises(SignatureError):
        open_bundle(copy, keys[1])


def test_a_signature_of_another_bundle_is_refused(copy: Path, keys: tuple[Path, Path]) -> None:
    (copy / SIGNATURE).write_bytes(signature.sign("0" * 64, keys[0]))
    with pytest.raises(SignatureError, match="found one by another key"):
        open_bundle(copy, keys[1])


@pytest.mark.parametrize("content", [b"{}", b"\xff", b'{"algorithm":"ed25519","key":"","signature":"zz"}', b"[" * 4000])
def test_a_broken_signature_is_refused(copy: Path, keys: tuple[Path, Path], content: bytes) -> None:
    (copy / SIGNATURE).write_bytes(content)
    with pytest.raises(SignatureError):
        open_bundle(copy, keys[1])
    (copy / SIGNATURE).write_bytes(b" " * 5000)
    with pytest.raises(BundleError, match="expected at most 4,096 bytes"):
        open_bundle(copy)


def test_wrong_key_files_raise_input_errors(copy: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    with pytest.raises(InputError, match="expected an Ed25519 public key in PEM"):
        open_bundle(copy, private)
    with pytest.raises(InputError, match="expected an Ed25519 private key in PEM"):
        signature.sign("0" * 64, public)
    with pytest.raises(InputError, match="expected a free name"):
        signature.generate(tmp_path / "ours")
