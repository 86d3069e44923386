"""The commands of experiments: start, stop, list. The trainer may add others: see the entry points of this group."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from musix_runtime.cli.arguments import AS_JSON, TRUST, NumberRange
from musix_runtime.cli.commands import Commands
from musix_runtime.cli.output import print_json, print_line
from musix_runtime.cli.registry import REGISTRY, open_registry
from musix_runtime.clock import format_time, now_ms
from musix_runtime.formatting import format_percent

if TYPE_CHECKING:
    from musix_runtime.registry.experiments import Experiment

NAME = click.argument("name")
LISTENERS = click.option(
    "--listeners",
    required=True,
    type=click.IntRange(100, 10**9),
    help="Number of listeners that the analysis is planned for.",
)
METRIC = click.option(
    "--metric",
    default="skip_rate",
    show_default=True,
    type=click.Choice(["skip_rate", "save_rate", "session_tracks", "repeat_rate"]),
    help="What decides.",
)


@click.group(cls=Commands, entry_points="musix.commands.experiment")
def experiment() -> None:
    """Compare two versions, or a version and a fixed policy, on the listeners of a server."""


@experiment.command()
@REGISTRY
@NAME
@click.option("--treatment", required=True, help="A published version, popular or blend.")
@click.option("--control", help="A published version, popular, blend or external.  [default: the live version]")
@click.option(
    "--share",
    required=True,
    type=NumberRange(1e-6, 1 - 1e-6),
    help="Share of the listeners that get the treatment.",
)
@LISTENERS
@METRIC
@TRUST
def start(
    registry: Path,
    name: str,
    treatment: str,
    control: str | None,
    share: float,
    listeners: int,
    metric: str,
    trust: Path | None,
) -> None:
    """Start an experiment.

    REGISTRY is the folder of the registry, NAME that of the bundle. Running servers take part within seconds.
    """
    from musix_runtime.registry import experiments

    started = experiments.start(
        open_registry(registry, trust),
        name,
        control=control,
        treatment=treatment,
        share=share,
        listeners=listeners,
        metric=metric,
        now_ms=now_ms(),
    )
    print_line(_describe(started))


@experiment.command()
@REGISTRY
@NAME
def stop(registry: Path, name: str) -> None:
    """Stop the running experiment of NAME in REGISTRY. The live version answers all listeners again."""
    from musix_runtime.registry import experiments

    print_line(_describe(experiments.stop(open_registry(registry), name, now_ms())))


@experiment.command(name="list")
@REGISTRY
@NAME
@AS_JSON
def list_(registry: Path, name: str, as_json: bool) -> None:
    """List the experiments of NAME in REGISTRY."""
    from musix_runtime.registry import experiments

    opened = open_registry(registry)
    opened.history(name)  # a name without experiments has none, another name is an error
    found = experiments.read_all(opened, name)
    if as_json:
        print_json(found)
        return
    for each in found:
        print_line(_describe(each))


def _describe(found: "Experiment") -> str:
    variants = f"treatment {found.treatment} for {format_percent(found.share)}, control {found.control}"
    return f"{found.title}: {variants}, {found.metric}, started {format_time(found.started_ms)}, {found.state}"
