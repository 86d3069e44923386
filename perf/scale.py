"""Bundles of any size by the real exporter: trained models with a simulated catalogue and interactions."""

import hashlib
import resource
from dataclasses import replace
from pathlib import Path

import click
import msgspec
import numpy as np

from musix_exporter import export
from musix_runtime.bundle.manifest import Provenance, SourceInfo
from musix_runtime.models.arrays import Floats
from musix_runtime.models.features import AUDIO
from musix_trainer import pipeline, progress, recipe
from musix_trainer.data.interactions import Interactions
from musix_trainer.models import artists, content, item_stats
from musix_trainer.models.mood import MoodModel
from musix_trainer.run import Run
from perf import simulation
from perf.peers import files

RECIPE = Path(__file__).with_name("models.toml")
SEED = 7
HOMES = 1  # clusters of a listener


def build(tracks: int, listeners: int, out: Path, models: Path, homes: int = HOMES) -> Path:
    """Return the bundle of that size in `out`, with the files of the peers in `out`/native. Makes it if missing.

    `models` is the run folder that the five models come from; trained by models.toml when there is none.
    """
    path = out / "bundle"
    if not path.exists():
        drawn = simulate(_trained(models), tracks, listeners, homes)
        progress.say(f"writing {out}")
        out.mkdir(parents=True, exist_ok=True)
        files.write(drawn, out / "native")
        export.export(drawn, path)
    return path


def simulate(small: Run, tracks: int, listeners: int, homes: int = HOMES) -> Run:
    """Return the models of `small` with a catalogue and interactions simulated around its own."""
    rng = np.random.default_rng(SEED)
    progress.say(f"drawing {tracks:,} tracks and the histories of {listeners:,} listeners")
    world = simulation.world(small.catalogue, tracks, rng)
    heard = simulation.histories(world, listeners, homes, rng)
    settings = small.recipe
    progress.say("drawing factors")
    collab = simulation.collab_model(world, heard, settings.collab.no_components, settings.collab.fold_in_ridge, rng)
    progress.say("computing moods, content vectors and popularity")
    moods = _moods(small.mood, world.catalogue.inputs)
    nothing = np.empty(0, np.int64)
    plays = Interactions([], nothing, heard.rows.astype(np.int64), nothing.astype(np.float64), nothing)
    first = heard.offsets[simulation.FOLD_IN_LISTENERS : simulation.FOLD_IN_LISTENERS + 1]
    some = slice(int(first[0]) if len(first) else len(heard.rows))
    owner = np.repeat(np.arange(listeners), np.diff(heard.offsets))[some]
    pairs = Interactions([], owner, plays.row[some], nothing.astype(np.float64), nothing)
    return replace(
        small,
        catalogue=world.catalogue,
        interactions=plays,
        models={
            **small.models,
            "catalog": item_stats.train(world.catalogue, moods, plays, settings.catalog),
            "genre": simulation.genre_model(small.genre, small.catalogue, world),
            "artists": artists.train(world.catalogue, pairs, settings.artists),
            "collab": collab,
            "content": content.train(world.catalogue, moods, settings.content),
        },
        quality={"genre": small.quality["genre"], "mood": small.quality["mood"]},
        provenance=_provenance(small, tracks, listeners, homes, len(heard.rows)),
    )


def _trained(models: Path) -> Run:
    if not models.exists():
        pipeline.train(recipe.read(RECIPE), None).save(models)
    return Run.load(models)


def _moods(model: MoodModel, inputs: Floats) -> Floats:
    audio = np.ascontiguousarray(inputs[:, : len(AUDIO)])
    return np.concatenate([model.probabilities(audio[start:stop]) for start, stop in simulation.chunks(len(audio))])


def _provenance(small: Run, tracks: int, listeners: int, homes: int, plays: int) -> Provenance:
    notes: dict[str, int | str] = {
        "tracks": tracks,
        "listeners": listeners,
        "homes": homes,
        "plays": plays,
        "seed": SEED,
    }
    sha256 = hashlib.sha256(msgspec.json.encode(notes, order="sorted")).hexdigest()
    drawn = SourceInfo(sha256, tracks, simulated=True, notes=notes)
    return msgspec.structs.replace(small.provenance, sources=small.provenance.sources | {"catalogue": drawn})


@click.command()
@click.option("--tracks", type=click.IntRange(1000), required=True, help="Tracks of the catalogue.")
@click.option("--users", type=click.IntRange(100), required=True, help="Listeners with a history.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for bundle/ and native/.")
@click.option("--models", type=click.Path(path_type=Path), help="Run folder of the models; default: OUT/models.")
@click.option("--homes", default=HOMES, show_default=True, help="Clusters a listener is at home in: more are harder.")
def main(tracks: int, users: int, out: Path, models: Path | None, homes: int) -> None:
    """Make a bundle of TRACKS x USERS with trained models and a simulated catalogue and interactions."""
    click.echo(build(tracks, users, out, models or out / "models", homes))
    progress.say(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
