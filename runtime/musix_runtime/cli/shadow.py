"""The commands of shadows: start, status, stop."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from musix_runtime.cli.arguments import TRUST
from musix_runtime.cli.experiment import NAME
from musix_runtime.cli.output import print_line
from musix_runtime.cli.registry import REGISTRY, open_registry
from musix_runtime.clock import now_ms

if TYPE_CHECKING:
    from musix_runtime.registry.shadows import Shadow


@click.group()
def shadow() -> None:
    """Let a version answer a share of the requests a second time, without showing its answers."""


@shadow.command()
@REGISTRY
@NAME
@click.argument("version")
@click.option(
    "--share",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the recommendations.",
)
@TRUST
def start(registry: Path, name: str, version: str, share: float, trust: Path | None) -> None:
    """Start a shadow of NAME in REGISTRY.

    VERSION answers a share of the recommendations a second time. It replaces a shadow that is running. The metrics
    musix_shadow_* of the servers compare both answers.
    """
    from musix_runtime.registry import shadows

    print_line(_describe(shadows.start(open_registry(registry, trust), name, version, share, now_ms())))


@shadow.command()
@REGISTRY
@NAME
def stop(registry: Path, name: str) -> None:
    """Stop the running shadow of NAME in REGISTRY."""
    from musix_runtime.registry import shadows

    print_line(_describe(shadows.stop(open_registry(registry), name, now_ms())))


@shadow.command()
@REGISTRY
@NAME
def status(registry: Path, name: str) -> None:
    """Show the latest shadow of NAME in REGISTRY."""
    from musix_runtime.registry import shadows

    print_line(_describe(shadows.latest(open_registry(registry), name)))


def _describe(found: "Shadow") -> str:
    state = "running" if found.stopped_ms is None else "stopped"
    return f"shadow {found.id}: {found.version} for {100 * found.share:.3g}% of the recommendations, {state}"
