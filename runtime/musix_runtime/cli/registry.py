"""The commands of a model registry: publish, versions, rollback, gc."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from musix_runtime.cli.arguments import AS_JSON, BUNDLE, TRUST
from musix_runtime.cli.output import print_json, print_line
from musix_runtime.errors import StoreError

if TYPE_CHECKING:
    from musix_runtime.registry.registry import Registry

REGISTRY = click.argument("registry", type=click.Path(path_type=Path))


@click.command()
@BUNDLE
@REGISTRY
@click.option("--candidate", is_flag=True, help="Keep the live version: for an experiment or a rollout.")
@TRUST
def publish(bundle: Path, registry: Path, candidate: bool, trust: Path | None) -> None:
    """Publish BUNDLE in a registry and make it live.

    Copies it into the folder REGISTRY and verifies the copy. Running servers switch to it.
    """
    opened = open_registry(registry, trust)
    published = opened.publish(bundle, candidate)
    print_line(f"{published}: {'live' if opened.live(published.parent.name) == published else 'candidate'}")


@click.command()
@REGISTRY
@click.argument("name", required=False)
@AS_JSON
def versions(registry: Path, name: str | None, as_json: bool) -> None:
    """List the versions of NAME, or of all names, in a registry.

    REGISTRY is the folder of the registry. The live version, and the one that `musix rollback` returns to, are marked.
    """
    opened = open_registry(registry)
    names = [name] if name else opened.names()
    if not names:
        raise StoreError(
            f"{registry}: expected a registry, found no published bundle; check the path, or use: musix publish"
        )
    listed = {each: (opened.versions(each), opened.history(each)) for each in names}
    if as_json:
        print_json(
            {
                each: {"versions": found, "live": live, "earlier": rest}
                for each, (found, (live, *rest)) in listed.items()
            }
        )
        return
    for each, (found, history) in listed.items():
        marks = dict(zip(history, (" live", " rollback"), strict=False))
        for version in found:
            print_line(f"{each} {version}{marks.get(version, '')}")


@click.command()
@REGISTRY
@click.argument("name")
@TRUST
def rollback(registry: Path, name: str, trust: Path | None) -> None:
    """Make the previous version live again.

    REGISTRY is the folder of the registry, NAME that of the bundle.
    """
    print_line(f"{open_registry(registry, trust).rollback(name)}: live")


@click.command()
@REGISTRY
@click.argument("name")
@click.option("--keep", default=1, show_default=True, type=click.IntRange(0), help="Earlier versions to keep.")
def gc(registry: Path, name: str, keep: int) -> None:
    """Remove old versions from a registry.

    Keeps the live version of NAME in REGISTRY, the last ones that were live before it, and those of a running
    experiment, rollout or shadow. A candidate that waits for one of these is removed.
    """
    for path in open_registry(registry).gc(name, keep):
        print_line(f"{path}: removed")


def open_registry(path: Path, trust: Path | None = None) -> "Registry":
    from musix_runtime.engine import Engine
    from musix_runtime.registry.registry import Registry

    return Registry(path, partial(Engine.open, trust=trust))
