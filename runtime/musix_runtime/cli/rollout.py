"""The commands of rollouts: start, status, hold, resume, abort. The trainer adds `step`, which decides by feedback."""

import re
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from musix_runtime.cli.arguments import AS_JSON, TRUST, NumberRange
from musix_runtime.cli.commands import Commands
from musix_runtime.cli.experiment import LISTENERS, METRIC, NAME
from musix_runtime.cli.output import print_json, print_line
from musix_runtime.cli.registry import REGISTRY, open_registry
from musix_runtime.clock import format_time, now_ms
from musix_runtime.formatting import format_percent

if TYPE_CHECKING:
    from musix_runtime.registry.rollouts import Rollout

MIN_PERCENT = 0.0001  # one of a million listeners
LONGEST = timedelta(days=10_000)
UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


def duration(text: str) -> int:
    """Return a number with a unit, such as 7d, 12h, 30m or 10s, in milliseconds."""
    found = re.fullmatch(r"([0-9]{1,9})([dhms])", text)
    if not found:
        raise click.BadParameter(f"expected a duration such as 7d, 12h, 30m or 10s, found {text!r}")
    length = timedelta(**{UNITS[found[2]]: int(found[1])})
    if length > LONGEST:
        raise click.BadParameter(f"expected at most {LONGEST.days:,} days, found {text!r}")
    return length // timedelta(milliseconds=1)


def _shares(text: str) -> tuple[float, ...]:
    """Return percentages with commas between them as shares, which grow to 1."""
    try:
        percents = [float(each) for each in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"expected percentages such as 20,40,60,80,100, found {text!r}") from error
    if percents[-1] != 100 or not all(before < after for before, after in pairwise(percents)):
        raise click.BadParameter(f"expected growing percentages that end with 100, found {text}")
    if len(percents) == 1:
        raise click.BadParameter(f"expected a percentage before 100, found {text}")
    if percents[0] < MIN_PERCENT:
        raise click.BadParameter(f"expected a first percentage of at least {MIN_PERCENT}, found {text}")
    return tuple(percent / 100 for percent in percents)


@click.group(cls=Commands, entry_points="musix.commands.rollout")
def rollout() -> None:
    """Show a new version to more and more listeners, until it is live."""


@rollout.command()
@REGISTRY
@NAME
@click.argument("version")
@click.option(
    "--stages",
    default="20,40,60,80,100",
    show_default=True,
    type=_shares,
    metavar="PERCENTS",
    help="Percent of the listeners; 100 is live.",
)
@click.option(
    "--over",
    default="7d",
    show_default=True,
    type=duration,
    help="Least time until the version is live, in d, h, m or s; the stages before have equal parts of it.",
)
@LISTENERS
@METRIC
@click.option(
    "--max-harm",
    default=0.02,
    show_default=True,
    type=NumberRange(1e-6, 1000),
    help="By how much the metric may get worse: a share, or tracks for session_tracks.",
)
@TRUST
def start(
    registry: Path,
    name: str,
    version: str,
    stages: tuple[float, ...],
    over: int,
    listeners: int,
    metric: str,
    max_harm: float,
    trust: Path | None,
) -> None:
    """Start the rollout of VERSION of NAME in REGISTRY, which was published with --candidate.

    The first share of the listeners gets it within seconds. `musix rollout step` begins the next stages.
    """
    from musix_runtime.registry import rollouts

    started = rollouts.start(
        open_registry(registry, trust),
        name,
        version,
        stages=stages,
        stage_ms=over // max(len(stages) - 1, 1),
        listeners=listeners,
        metric=metric,
        max_harm=max_harm,
        now_ms=now_ms(),
    )
    print_line(describe(started))


@rollout.command()
@REGISTRY
@NAME
@AS_JSON
def status(registry: Path, name: str, as_json: bool) -> None:
    """Show the latest rollout of NAME in REGISTRY, and its journal."""
    from musix_runtime.registry import rollouts

    opened = open_registry(registry)
    found, live = rollouts.read(opened, name), opened.history(name)[0]
    if as_json:
        print_json({**msgspec.to_builtins(found), "live": live})
        return
    print_line(describe(found, live))
    for entry in found.journal:
        reason = f": {entry.reason}" if entry.reason else ""
        print_line(f"  {format_time(entry.time_ms)} {entry.action}, {format_percent(entry.share)}{reason}")


@rollout.command()
@REGISTRY
@NAME
def hold(registry: Path, name: str) -> None:
    """Stay at the present share of the listeners. A guardrail that is crossed still aborts."""
    from musix_runtime.registry import rollouts

    print_line(describe(rollouts.hold(open_registry(registry), name, now_ms())))


@rollout.command()
@REGISTRY
@NAME
def resume(registry: Path, name: str) -> None:
    """Go on with a rollout that is held."""
    from musix_runtime.registry import rollouts

    print_line(describe(rollouts.resume(open_registry(registry), name, now_ms())))


@rollout.command()
@REGISTRY
@NAME
@click.option("--reason", default="", help="For the journal.")
def abort(registry: Path, name: str, reason: str) -> None:
    """End the rollout: the live version answers all listeners again, within seconds."""
    from musix_runtime.registry import rollouts

    print_line(describe(rollouts.abort(open_registry(registry), name, now_ms(), reason)))


def describe(found: "Rollout", live: str | None = None) -> str:
    """Return a rollout on one line. `live` is the live version, which may have changed after the rollout."""
    if found.state == "finished" and live not in (None, found.version):
        return f"rollout {found.id}: {found.version} for 0% of the listeners, finished; {live} is live now"
    return f"rollout {found.id}: {found.version} for {format_percent(found.share)} of the listeners, {found.state}"
