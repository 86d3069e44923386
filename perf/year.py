"""A simulated year of a music service whose listeners change their taste, with the loop and without.

Listeners, tracks and clock are simulated, and the truth is planted: a track of a favourite family is skipped in 10 % of
the cases, others in 45 %. Store, registry, trainings, experiments and rollouts are the real ones.
"""

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from musix_exporter.build import build
from musix_runtime.bundle.reader import Bundle
from musix_runtime.feedback.events import DAY_MS
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.registry.registry import Registry
from musix_runtime.serving.model_manager import ModelManager
from musix_trainer import recipe
from musix_trainer.data import synthetic
from musix_trainer.data.synthetic import World
from musix_trainer.loop.loop import Loop
from musix_trainer.recipe import RecipeFile, Synthetic
from perf.simulated_service import START_MS, SimulatedService

LISTENERS, TRACKS, DAYS = 500, 1000, 364
FAVOURITE_SKIPS, OTHER_SKIPS = 0.10, 0.45
CHANGE = 0.25  # chance that a listener exchanges one of three favourite families in a month
WITHOUT, WITH = "without the loop", "with the loop"
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
            for listener in np.flatnonzero(random.random(len(now)) < CHANGE):
                row = now[listener]
                old, new = random.choice(np.flatnonzero(row)), random.choice(np.flatnonzero(~row))
                row[old], row[new] = False, True
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


@dataclass(frozen=True)
class Year:
    """The skip rate of each day, the days on which a version became live, and those of a training."""

    rates: NDArray[np.float64]
    versions: list[tuple[int, str]]
    trained: list[int]


def prepare(folder: Path) -> World:
    """Write the tables of the first day into `folder`, and build the first version of them. Return their world."""
    world = synthetic.generate(Synthetic(tracks=TRACKS, listeners=LISTENERS), 0)
    data = folder / "tables"
    data.mkdir()
    for name in ("tracks", "listening", "feedback"):
        getattr(world, name).write_parquet(data / f"{name}.parquet")
    make(recipe_file(), data, folder / "first")
    return world


def recipe_file() -> RecipeFile:
    """Return the recipe of the first version."""
    return recipe.parse(RECIPE.encode(), Path("year.toml"))


def make(recipe_file: RecipeFile, data: Path, out: Path) -> Bundle:
    """Build a bundle without its report."""
    return build(recipe_file, data, out, show=lambda report: None, replace=True)


def simulate(folder: Path, taste: Taste, with_loop: bool) -> Year:
    """Live through a year from what is prepared in `folder`, in a folder beside it."""
    own = folder / ("with" if with_loop else "without")
    registry = Registry(own / "registry")
    registry.publish(folder / "first" / "year-1.0.0")
    store = FeedbackStore.open(f"sqlite:///{own / 'feedback.db'}")
    users = [synthetic.user_id(number) for number in range(LISTENERS)]
    manager = ModelManager.open(registry.path)
    service = SimulatedService(manager, store, users, taste.skip_chance, taste.chosen)
    day = 0
    clock = lambda: START_MS + (day + 1) * DAY_MS  # noqa: E731
    loop = Loop(registry, "year", store, recipe_file(), folder / "tables", own / "out", make, clock=clock)
    rates, versions, trained = [], [(0, "1.0.0")], []
    for day in range(DAYS):
        rates.append(service.live_through(day))
        for result in loop.run() if with_loop else ():
            trained += [day] if result.decision.action == "retrain" else []
            if result.outcome != "nothing":
                click.echo(f"day {day}: {result.decision.action}, {result.decision.reason}: {result.found}", err=True)
        if (live := registry.history("year")[0]) != versions[-1][1]:
            versions.append((day, live))
    store.close()
    return Year(np.array(rates), versions, trained)


def draw(years: dict[str, Year], path: Path) -> None:
    """Draw the skip rates by week, the trainings and the days on which another version became live."""
    figure, axes = plt.subplots(figsize=(9, 4))
    for name, year in years.items():
        weeks = year.rates[: DAYS // 7 * 7].reshape(-1, 7).mean(axis=1)
        axes.plot(np.arange(len(weeks)) + 1, 100 * weeks, label=name)
    lived = years[WITH]
    axes.plot(np.array(lived.trained) / 7, np.zeros(len(lived.trained)), "k|", markersize=8, label="a training")
    for day, version in lived.versions[1:]:
        axes.axvline(day / 7, color="grey", linewidth=0.8, linestyle=":")
        axes.annotate(f"{version} live", (day / 7, 1), fontsize=7, rotation=90, va="bottom", ha="right")
    axes.set(xlabel="week", ylabel="skip rate, %", title="A simulated year: simulated listeners whose taste changes")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=100, bbox_inches="tight")


@click.command()
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="PNG file for the skip rate by week.")
def main(plot: Path | None) -> None:
    """Print the skip rate of the first and the last four weeks, with the loop and without. Takes two processes."""
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        folder = Path(name)
        taste = Taste.of(prepare(folder))
        runs = {title: pool.submit(simulate, folder, taste, title == WITH) for title in (WITHOUT, WITH)}
        years = {title: run.result() for title, run in runs.items()}
    for title, year in years.items():
        first, last = year.rates[:28].mean(), year.rates[-28:].mean()
        click.echo(f"{title}: skip rate {first:.1%} in the first four weeks, {last:.1%} in the last")
    click.echo("live: " + ", ".join(f"{version} from day {day}" for day, version in years[WITH].versions))
    if plot:
        draw(years, plot)


if __name__ == "__main__":
    main()
