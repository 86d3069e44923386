"""Time of a recommendation by number of tracks, listeners, recommended tracks and excluded tracks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import matplotlib
import msgspec
import numpy as np

from musix_runtime import Engine
from musix_runtime.models.arrays import Scores
from perf import profile, scale, workload

matplotlib.use("agg")
from matplotlib import pyplot  # after the choice of a backend without a screen

SIZES = (10_000, 100_000, 1_000_000)
LENGTHS = (1, 10, 30, 100)
ROUNDS = 5
EXCLUDED = (0, 10, 100, 1_000, 10_000)
TITLES = {
    "tracks": "Tracks in the catalogue (10,000 listeners)",
    "listeners": "Listeners (10,000 tracks)",
    "length": "Length of the list (10,000 tracks and listeners)",
    "excluded": "Excluded tracks (100,000 tracks, 10,000 listeners)",
}


def measure(work: Path, count: int) -> dict[str, dict[int, dict[str, float]]]:
    """Return median and P95 of `Engine.recommend` in microseconds, by variable and its value.

    In rounds over all points, so that a slower minute of the machine is every point's.
    """

    def opened(tracks: int, listeners: int) -> tuple[Path, Engine]:
        bundle = scale.build(tracks, listeners, work / f"{tracks}x{listeners}", work / "models")
        return bundle, Engine.open(bundle)

    small, middle = opened(SIZES[0], SIZES[0]), opened(SIZES[1], SIZES[0])
    points = {
        "tracks": {size: _point(*opened(size, SIZES[0]), count) for size in SIZES},
        "listeners": {size: _point(*opened(SIZES[0], size), count) for size in SIZES},
        "length": {length: _point(*small, count, limit=length) for length in LENGTHS},
        "excluded": {
            number: _point(*middle, count, exclude_ids=workload.tracks(middle[0], number)) for number in EXCLUDED
        },
    }
    rounds = [{name: {x: asked() for x, asked in of.items()} for name, of in points.items()} for _ in range(ROUNDS)]
    return {
        name: {x: profile.figures(np.concatenate([item[name][x] for item in rounds])) for x in of}
        for name, of in points.items()
    }


def _point(bundle: Path, engine: Engine, count: int, **fields: Any) -> Callable[[], Scores]:
    """Return the times of `count` requests with these fields, in microseconds."""
    requests = [msgspec.structs.replace(item, **fields) for item in workload.draw(bundle, count).typed()[0]]
    return lambda: profile.times(engine, requests).sum(axis=1)


def draw(result: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    """Draw the figure, with a panel for each variable."""
    figure, panels = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for panel, (name, title) in zip(panels.flat, TITLES.items(), strict=True):
        sizes = list(result[name])
        for key, label in (("p50_us", "median"), ("p95_us", "P95")):
            panel.plot(
                [max(size, 1) for size in sizes], [result[name][size][key] / 1000 for size in sizes], "o-", label=label
            )
        panel.set_xscale("log")
        panel.set_xticks([max(size, 1) for size in sizes], [f"{size:,}" for size in sizes])
        panel.minorticks_off()
        panel.set_ylim(0)
        panel.set_ylabel("ms")
        panel.set_title(title, fontsize=10)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    figure.suptitle("Time of one recommendation, engine alone, one thread")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default="build/perf", show_default=True, help="For bundles.")
@click.option("--count", default=500, show_default=True, help="Questions at each point, in each of five rounds.")
@click.option(
    "--out", type=click.Path(path_type=Path), default="build/perf/growth.png", show_default=True, help="Figure."
)
def main(work: Path, count: int, out: Path) -> None:
    """Draw the time of a recommendation by size. The values are written beside the figure, as JSON."""
    result = measure(work, count)
    out.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    draw(result, out)
    click.echo(out)


if __name__ == "__main__":
    main()
