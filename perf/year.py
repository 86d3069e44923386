"""A simulated year of a music service whose listeners change their taste, with the loop and without.

Listeners, tracks and clock are simulated, and the truth is planted: a track of a favourite family is skipped in 10 % of
the cases, others in 45 %. Store, registry, trainings, experiments and rollouts are the real ones.
"""

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from musix_exporter.build import build
from musix_runtime.feedback.events import DAY_MS
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.registry.registry import Registry
from musix_runtime.serving.model_manager import ModelManager
from musix_trainer import recipe
from musix_trainer.data import synthetic
from musix_trainer.data.synthetic import World
from musix_trainer.loop.loop import Loop
from musix_trainer.recipe import Synthetic
from perf.simulated_service import START_MS, SimulatedService

LISTENERS, TRACKS, DAYS = 500, 1500, 364
FAVOURITE_SKIPS, OTHER_SKIPS = 0.10, 0.45
CHANGE = 0.25  # chance that a listener exchanges one of three favourite families in a month
CHOSEN = 3  # tracks that a listener plays without a list on a day
RECIPE = """
name = "year"
version = "1.0.0"
source = "tables"
[tables]
feedback = "feedback.parquet"
[genre]
max_depth = 3
learning_rate = 0.35
n_estimators = 20
[mood]
epochs = 5
[collab]
epochs = 15
[ranker]
epochs = 10
"""


@dataclass(frozen=True)
class Taste:
    """The planted truth: the family of each track, and the favourite families by month (13, listeners, families)."""

    family: NDArray[np.int64]
    favourite: NDArray[np.bool_]

    @classmethod
    def of(cls, world: World) -> "Taste":
        """Let the favourites of a world change from month to month."""
        random = np.random.default_rng(0)
        months = [world.favourite]
        for _ in range(DAYS // 30):
            now = months[-1].copy()
            for row in now[random.random(len(now)) < CHANGE]:
                row[random.choice(np.flatnonzero(row))] = False
            for row in now:
                missing = 3 - row.sum()
                row[random.choice(np.flatnonzero(~row), missing, replace=False)] = True
            months.append(now)
        return cls(world.family, np.array(months))

    def skip_chance(self, version: str, number: int, tracks: list[str], day: int) -> NDArray[np.float64]:
        """Return the chance that each of the tracks (n,) is skipped."""
        families = self.family[[int(track.removeprefix("simulated")) for track in tracks]]
        return np.where(self.favourite[day // 30, number, families], FAVOURITE_SKIPS, OTHER_SKIPS)

    def chosen(self, number: int, day: int, random: np.random.Generator) -> list[str]:
        """Return tracks of favourite families."""
        loved = np.flatnonzero(self.favourite[day // 30, number, self.family])
        return [synthetic.track_id(int(row)) for row in random.choice(loved, CHOSEN)]


def simulate(folder: Path, with_loop: bool) -> tuple[NDArray[np.float64], list[tuple[int, str]]]:
    """Return the skip rate of each day, and the days on which other versions became live."""
    world = synthetic.generate(Synthetic(tracks=TRACKS, listeners=LISTENERS), 0)
    taste = Taste.of(world)
    data = folder / "tables"
    data.mkdir(parents=True)
    for name in ("tracks", "listening", "feedback"):
        getattr(world, name).write_parquet(data / f"{name}.parquet")
    recipe_file = recipe.parse(RECIPE.encode(), Path("year.toml"))
    make = partial(build, show=lambda report: None, replace=True)
    registry = Registry(folder / "registry")
    registry.publish(make(recipe_file, data, folder / "first").path)
    store = FeedbackStore.open(f"sqlite:///{folder / 'feedback.db'}")
    users = [synthetic.user_id(number) for number in range(LISTENERS)]
    manager = ModelManager.open(registry.path)
    service = SimulatedService(manager, store, users, taste.skip_chance, taste.chosen)
    day = 0
    clock = lambda: START_MS + (day + 1) * DAY_MS  # noqa: E731
    loop = Loop(registry, "year", store, recipe_file, data, folder / "out", make, clock=clock)
    rates, versions = [], [(0, "1.0.0")]
    for day in range(DAYS):
        rates.append(service.live_through(day))
        for result in loop.run() if with_loop else ():
            if result.outcome != "nothing":
                click.echo(f"day {day}: {result.decision.action}, {result.decision.reason}: {result.found}", err=True)
        if (live := registry.history("year")[0]) != versions[-1][1]:
            versions.append((day, live))
    store.close()
    return np.array(rates), versions


def draw(rates: dict[str, NDArray[np.float64]], versions: list[tuple[int, str]], path: Path) -> None:
    """Draw the skip rates by week."""
    figure, axes = plt.subplots(figsize=(9, 4))
    for name, values in rates.items():
        weeks = values[: len(values) // 7 * 7].reshape(-1, 7).mean(axis=1)
        axes.plot(np.arange(len(weeks)) + 1, 100 * weeks, label=name)
    for day, version in versions[1:]:
        axes.axvline(day / 7, color="grey", linewidth=0.8, linestyle=":")
        axes.annotate(version, (day / 7, axes.get_ylim()[1]), fontsize=7, rotation=90, va="top", ha="right")
    axes.set(xlabel="week", ylabel="skip rate, %", title="A simulated year of listeners whose taste changes")
    axes.legend()
    figure.savefig(path, dpi=100, bbox_inches="tight")


@click.command()
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="PNG file for the skip rate by week.")
def main(plot: Path | None) -> None:
    """Print the skip rate of the first and the last four weeks, with the loop and without."""
    rates: dict[str, NDArray[np.float64]] = {}
    for name, with_loop in (("without the loop", False), ("with the loop", True)):
        with tempfile.TemporaryDirectory() as folder:
            rates[name], versions = simulate(Path(folder), with_loop)
    for name, values in rates.items():
        click.echo(
            f"{name}: skip rate {values[:28].mean():.1%} in the first four weeks, {values[-28:].mean():.1%} in the last"
        )
    click.echo("live: " + ", ".join(f"{version} from day {day}" for day, version in versions))
    if plot:
        draw(rates, versions, plot)


if __name__ == "__main__":
    main()
