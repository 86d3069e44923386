"""The commands of a model registry: publish, rollback, gc."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from musix_runtime.cli.arguments import BUNDLE, TRUST
from musix_runtime.cli.output import print_line

if TYPE_CHECKING:
    from musix_runtime.registry.registry import Registry

STORE = click.argument("store", type=click.Path(path_type=Path))


@click.command()
@BUNDLE
@STORE
@TRUST
def publish(bundle: Path, store: Path, trust: Path | None) -> None:
    """Publish BUNDLE in a registry and make it live.

    Copies it into the folder STORE and verifies the copy. Running servers switch to it.
    """
    print_line(f"{_registry(store, trust).publish(bundle)}: live")


@click.command()
@STORE
@click.argument("name")
@TRUST
def rollback(store: Path, name: str, trust: Path | None) -> None:
    """Make the previous version live again.

    STORE is the folder of the registry, NAME that of the bundle.
    """
    print_line(f"{_registry(store, trust).rollback(name)}: live")


@click.command()
@STORE
@click.argument("name")
@click.option("--keep", default=1, show_default=True, type=click.IntRange(0), help="Earlier versions to keep.")
def gc(store: Path, name: str, keep: int) -> None:
    """Remove old versions from a registry.

    Keeps the live version of NAME in STORE and the last ones that were live before it.
    """
    for path in _registry(store).gc(name, keep):
        print_line(f"{path}: removed")


def _registry(path: Path, trust: Path | None = None) -> "Registry":
    from musix_runtime.engine import Engine
    from musix_runtime.registry.registry import Registry

    return Registry(path, partial(Engine.open, trust=trust))
