"""The commands of a store: publish, rollback, gc."""

from pathlib import Path

import click

STORE = click.argument("store", type=click.Path(path_type=Path))


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@STORE
def publish(bundle: Path, store: Path) -> None:
    """Copy BUNDLE into STORE, verify the copy and make it live; running servers take it up."""
    from musix_runtime.store import Store

    click.echo(f"{Store(store).publish(bundle)}: live")


@click.command()
@STORE
@click.argument("name")
def rollback(store: Path, name: str) -> None:
    """Make live again what was live before in STORE under NAME."""
    from musix_runtime.store import Store

    click.echo(f"{Store(store).rollback(name)}: live")


@click.command()
@STORE
@click.argument("name")
@click.option("--keep", default=1, show_default=True, type=click.IntRange(0), help="How many earlier ones to keep.")
def gc(store: Path, name: str, keep: int) -> None:
    """Remove from STORE the versions of NAME that are neither live nor among the last before it."""
    from musix_runtime.store import Store

    for path in Store(store).gc(name, keep):
        click.echo(f"{path}: removed")
