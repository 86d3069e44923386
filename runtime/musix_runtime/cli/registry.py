"""The commands of a store: publish, rollback, gc."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from musix_runtime.registry.registry import Registry

TRUST = click.option("--trust", type=click.Path(path_type=Path), help="Public key by which a bundle must be signed.")
STORE = click.argument("store", type=click.Path(path_type=Path))


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@STORE
@TRUST
def publish(bundle: Path, store: Path, trust: Path | None) -> None:
    """Copy BUNDLE into STORE, verify the copy and make it live; running servers take it up."""
    click.echo(f"{_store(store, trust).publish(bundle)}: live")


@click.command()
@STORE
@click.argument("name")
@TRUST
def rollback(store: Path, name: str, trust: Path | None) -> None:
    """Make live again what was live before in STORE under NAME."""
    click.echo(f"{_store(store, trust).rollback(name)}: live")


@click.command()
@STORE
@click.argument("name")
@click.option("--keep", default=1, show_default=True, type=click.IntRange(0), help="How many earlier ones to keep.")
def gc(store: Path, name: str, keep: int) -> None:
    """Remove from STORE the versions of NAME that are neither live nor among the last before it."""
    for path in _store(store).gc(name, keep):
        click.echo(f"{path}: removed")


def _store(path: Path, trust: Path | None = None) -> "Registry":
    from musix_runtime.engine import Engine
    from musix_runtime.registry.registry import Registry

    return Registry(path, partial(Engine.open, trust=trust))
