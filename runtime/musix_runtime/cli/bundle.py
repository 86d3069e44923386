"""The commands that check, copy, sign and show bundles: verify, pack, unpack, keygen, sign, inspect, diff."""

import os
from pathlib import Path

import click

from musix_runtime.cli.arguments import AS_JSON, BUNDLE, TRUST, BundlePath
from musix_runtime.cli.output import print_card, print_json, print_line
from musix_runtime.errors import InputError


@click.command()
@BUNDLE
@TRUST
def verify(bundle: Path, trust: Path | None) -> None:
    """Verify every file of BUNDLE and replay all golden cases."""
    from musix_runtime import golden
    from musix_runtime.engine import Engine

    engine = Engine.open(bundle, trust)
    manifest, cases = engine.bundle.manifest, engine.golden()
    errors = golden.replay(engine, cases)
    total = sum(file.bytes for file in manifest.files.values())
    print_line(f"{bundle}: ok, {len(manifest.files)} files, {total:,} bytes{', signature trusted' if trust else ''}")
    largest = ", ".join(f"{part} {error:.1e}" for part, error in errors.items())
    print_line(f"{len(cases.classify)} classify and {len(cases.recommend)} recommend cases, largest errors: {largest}")
    print_line(f"digest {engine.bundle.digest}")


@click.command()
@BUNDLE
@click.argument("file", required=False, type=click.Path(path_type=Path))
def pack(bundle: Path, file: Path | None) -> None:
    """Pack the folder BUNDLE into one FILE.

    The default is NAME-VERSION.musix beside BUNDLE. A packed file can be served as it is.
    """
    from musix_runtime.models.parts import open_bundle

    opened = open_bundle(bundle)
    target = file or _beside(bundle, f"{opened.name}.musix")
    opened.pack(target)
    print_line(target)


@click.command()
@click.argument("file", type=BundlePath())
@click.argument("folder", required=False, type=click.Path(path_type=Path))
def unpack(file: Path, folder: Path | None) -> None:
    """Unpack FILE into a FOLDER.

    The default is NAME-VERSION beside FILE.
    """
    from musix_runtime.models.parts import open_bundle

    opened = open_bundle(file)
    target = folder or _beside(file, opened.name)
    opened.unpack(target)
    print_line(target)


def _beside(bundle: Path, name: str) -> Path:
    """Return the path of `name` beside a bundle, which may be `.`."""
    return (bundle if bundle.name.strip(".") else bundle.resolve()).with_name(name)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def keygen(path: Path) -> None:
    """Write an Ed25519 key pair.

    PATH.key is the private key for `musix sign`, PATH.pub the public key for `--trust`.
    """
    from musix_runtime.bundle import signature

    for file in signature.generate(path):
        print_line(file)


@click.command()
@BUNDLE
@click.option("--key", required=True, type=click.Path(path_type=Path), help="Private key that `musix keygen` wrote.")
def sign(bundle: Path, key: Path) -> None:
    """Sign the folder BUNDLE with a private key."""
    from musix_runtime.bundle import signature
    from musix_runtime.models.parts import open_bundle
    from musix_runtime.registry.registry import LIVE

    opened = open_bundle(bundle)
    if not bundle.is_dir():
        raise InputError(f"{bundle}: expected a bundle folder to sign, found a file; sign first, then pack")
    if os.path.lexists(bundle.resolve().parent / LIVE):
        raise InputError(f"{bundle}: expected a bundle to sign, found a published version, which is never changed")
    print_line(signature.write(bundle, opened.digest, key))


@click.command()
@BUNDLE
@AS_JSON
@click.option("--model-card", "as_model_card", is_flag=True, help="Print a model card, as Hugging Face defines it.")
def inspect(bundle: Path, as_json: bool, as_model_card: bool) -> None:
    """Show counts, sizes, quality and origin of BUNDLE."""
    from musix_runtime.inspection.model_card import model_card
    from musix_runtime.models.parts import open_bundle

    if as_json and as_model_card:
        raise InputError("musix inspect: expected --json or --model-card, found both")
    opened = open_bundle(bundle)
    if as_model_card:
        for line in model_card(opened.manifest, opened.digest):
            print_line(line)
        return
    if as_json:
        print_json({"digest": opened.digest, "manifest": opened.manifest})
        return
    print_card(opened)
    print_line()
    print_line(f"digest {opened.digest}")


@click.command()
@click.argument("first", type=BundlePath())
@click.argument("second", type=BundlePath())
@AS_JSON
def diff(first: Path, second: Path, as_json: bool) -> None:
    """Show what changed between two bundles.

    Compares versions, data, labels, sizes, quality, and the answers of FIRST and SECOND to the same requests.
    """
    from musix_runtime.engine import Engine
    from musix_runtime.inspection.diff import compare

    differences = compare(Engine.open(first), Engine.open(second))
    if as_json:
        print_json(differences)
        return
    for line in differences.lines():
        print_line(line)
