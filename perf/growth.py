"""Growth: what a recommendation costs with more tracks, listeners, places in the list, and excluded tracks."""

from pathlib import Path
from typing import Any

import click
import matplotlib
import msgspec

from musix_runtime import Engine
from perf import profile, scale, stream

matplotlib.use("agg")
from matplotlib import pyplot  # after the choice of a backend that needs no screen

SIZES = (10_000, 100_000, 1_000_000)
LENGTHS = (1, 10, 30, 100)
EXCLUDED = (0, 10, 100, 1_000, 10_000)
TITLES = {
    "tracks": "Tracks in the catalogue (10,000 listeners)",
    "listeners": "Listeners (10,000 tracks)",
    "length": "Length of the list (10,000 tracks and listeners)",
    "excluded": "Excluded tracks (100,000 tracks, 10,000 listeners)",
}


def measure(work: Path, count: int) -> dict[str, dict[int, dict[str, float]]]:
    """Median and P95 of the engine's recommend in microseconds, by what grows and how far."""

    def made(tracks: int, listeners: int) -> Path:
        return scale.build(tracks, listeners, work / f"{tracks}x{listeners}", work / "models")

    small, middle = made(SIZES[0], SIZES[0]), made(SIZES[1], SIZES[0])
    return {
        "tracks": {size: _asked(made(size, SIZES[0]), count) for size in SIZES},
        "listeners": {size: _asked(made(SIZES[0], size), count) for size in SIZES},
        "length": {length: _asked(small, count, limit=length) for length in LENGTHS},
        "excluded": {number: _excluding(middle, count, number) for number in EXCLUDED},
    }


def _asked(bundle: Path, count: int, **fields: Any) -> dict[str, float]:
    requests = [msgspec.structs.replace(each, **fields) for each in stream.draw(bundle, count).typed()[0]]
    return profile.recommend(Engine.open(bundle), requests)["whole"]


def _excluding(bundle: Path, count: int, number: int) -> dict[str, float]:
    return _asked(bundle, count, exclude_ids=stream.tracks(bundle, number))


def draw(found: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    """The figure: a panel for each thing that grows."""
    figure, panels = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for panel, (name, title) in zip(panels.flat, TITLES.items(), strict=True):
        sizes = list(found[name])
        for key, label in (("p50_us", "median"), ("p95_us", "P95")):
            panel.plot(
                [max(size, 1) for size in sizes], [found[name][size][key] / 1000 for size in sizes], "o-", label=label
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
@click.option("--count", default=1000, show_default=True, help="Questions at each point.")
@click.option(
    "--out", type=click.Path(path_type=Path), default="build/perf/growth.png", show_default=True, help="Figure."
)
def main(work: Path, count: int, out: Path) -> None:
    """Draw how the cost of a recommendation grows; the figures are written beside the figure, as JSON."""
    found = measure(work, count)
    out.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    draw(found, out)
    click.echo(out)


if __name__ == "__main__":
    main()
