"""Ed25519 signatures of bundle digests. A signature is checked only when a trusted key is given."""

from pathlib import Path
from typing import Any

import msgspec

from musix_runtime.atomic import check_free, check_named, write_file
from musix_runtime.bundle.manifest import SIGNATURE
from musix_runtime.errors import InputError, OutputError, SignatureError
from musix_runtime.input_file import read_input

ALGORITHM = "ed25519"


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`signature.json`: the public key, and the signature of the 64 characters of the digest, both hexadecimal."""

    algorithm: str
    key: str
    signature: str


def generate(path: Path) -> tuple[Path, Path]:
    """Write a new key pair in PEM: `path`.key, readable only by its owner, and `path`.pub. Return both paths.

    Raises OutputError, without leaving a file, when one exists or cannot be written.
    """
    ed25519, serialization = _cryptography()
    check_named(path)
    private, public = path.with_name(f"{path.name}.key"), path.with_name(f"{path.name}.pub")
    for file in (private, public):
        check_free(file)
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    shared = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    write_file(public, shared, replace=False)
    try:
        write_file(private, pem, replace=False, mode=0o600)
    except OutputError:
        public.unlink()
        raise
    return private, public


def sign(digest: str, private: Path) -> bytes:
    """Return the bytes of `signature.json`. Raises InputError unless `private` is an Ed25519 private key."""
    ed25519, serialization = _cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        key = serialization.load_pem_private_key(read_input(private), None)
    except (InputError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{private}: expected an Ed25519 private key in PEM, found: {error}") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InputError(f"{private}: expected an Ed25519 private key, found another kind")
    return _encode(Signature(ALGORITHM, key.public_key().public_bytes_raw().hex(), key.sign(digest.encode()).hex()))


def write(folder: Path, digest: str, private: Path) -> Path:
    """Sign the bundle in a folder, and return the path of its `signature.json`. Raises InputError, OutputError."""
    beside = folder.resolve()  # which has a name, also for `.`
    write_file(folder / SIGNATURE, sign(digest, private), beside=beside.with_name(f"{beside.name}.signature"))
    return folder / SIGNATURE


def read_key(path: Path) -> Any:
    """Return the Ed25519 public key in a PEM file. Raises InputError when there is none."""
    ed25519, serialization = _cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        key = serialization.load_pem_public_key(read_input(path))
    except (InputError, ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: expected an Ed25519 public key in PEM, found: {error}") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise InputError(f"{path}: expected an Ed25519 public key, found another kind")
    return key


def check(digest: str, signature: bytes, key: Any, place: Path) -> None:
    """Raise SignatureError unless `signature` is the canonical signature of `digest` by `key`."""
    from cryptography.exceptions import InvalidSignature

    if not signature:
        raise SignatureError(f"{place}: expected a signature by the trusted key, found none")
    try:
        found = msgspec.json.decode(signature, type=Signature)
        content = bytes.fromhex(found.signature)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise SignatureError(f"{place}: expected a signature, found: {error}") from error
    expected = Signature(ALGORITHM, key.public_bytes_raw().hex(), content.hex())
    if signature != _encode(expected):
        raise SignatureError(
            f"{place}: expected an {ALGORITHM} signature by {expected.key}, found one by {found.key[:100]}"
        )
    try:
        key.verify(content, digest.encode())
    except InvalidSignature as error:
        raise SignatureError(f"{place}: expected a signature by the trusted key, found one by another key") from error


def _encode(signature: Signature) -> bytes:
    return msgspec.json.format(msgspec.json.encode(signature), indent=2) + b"\n"


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError as error:
        raise InputError("signatures need cryptography; install it with: pip install 'musix-edge[sign]'") from error
    return ed25519, serialization
