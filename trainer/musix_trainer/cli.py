"""The trainer's commands: `musix train`, `musix evaluate`, `musix tune`, `musix report`, `musix import` and
`musix feedback`."""

from datetime import datetime
from pathlib import Path

import click

from musix_runtime.cli.arguments import BundlePath

RECIPE = click.argument("recipe_path", metavar="RECIPE", type=click.Path(path_type=Path))
RUN = click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
DATA = click.option("--data", type=click.Path(path_type=Path), help="Folder of the recipe's tables.")
OUT = click.option(
    "--out", type=click.Path(path_type=Path), default=Path("build"), show_default=True, help="Where to write."
)
DATES = click.option(
    "--release-dates",
    "dates",
    type=click.Path(path_type=Path),
    help="Table of release dates: columns key (title|artist) and release_date.",
)


@click.command()
@RECIPE
@DATA
@OUT
@click.option("--replace", is_flag=True, help="Replace a run that was evaluated, and its evaluation.")
def train(recipe_path: Path, data: Path | None, out: Path, replace: bool) -> None:
    """Train all parts of RECIPE, and write the run folder OUT/runs/NAME-VERSION, replacing an older run.

    An older run that was evaluated is only replaced with --replace.
    """
    from musix_runtime.atomic import check_writable
    from musix_trainer import recipe, tracking

    recipe_file = recipe.read(recipe_path)  # before the import of what takes seconds
    check_writable(out)
    tracking.check(recipe_file)
    from musix_trainer import pipeline, run
    from musix_trainer.evaluation import benchmark

    path = out / "runs" / recipe_file.recipe.label
    if not replace:
        run.check_unevaluated(path)
    train_run = benchmark.train if recipe_file.recipe.source == "lastfm" else pipeline.train
    trained = train_run(recipe_file, data)
    trained.save(path)
    tracking.log(path, recipe_file, trained.quality, trained.points)
    click.echo(path)


@click.command()
@RUN
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    help="PART or PART/PROTOCOL; default: all but playlists, cold_tracks, temporal and held_out_20.",
)
@click.option(
    "--seeds",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Number of random splits, whose results are merged.",
)
@click.option(
    "--listening", type=click.Path(path_type=Path), help="Table of other listeners; measures zero_shot on it."
)
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="JSON file to write.")
def evaluate(
    run_path: Path, protocols: tuple[str, ...], seeds: int, listening: Path | None, json_path: Path | None
) -> None:
    """Measure the run folder RUN by named protocols, with baselines and 95 % intervals.

    Results are stored in RUN/evaluation and reused; an export adds them to the quality card.
    """
    import json

    from musix_runtime.atomic import check_file, write_file
    from musix_trainer import tracking
    from musix_trainer.evaluation import evaluate as evaluation

    if json_path:
        check_file(json_path)
    recipe_file = evaluation.read_recipe(run_path)
    tracking.check(recipe_file)
    results = evaluation.evaluate(run_path, protocols, seeds, listening)
    tracking.log(run_path, recipe_file, {"evaluation": results})
    click.echo(evaluation.table(results))
    if json_path:
        write_file(json_path, json.dumps(results, indent=2).encode() + b"\n")


@click.command()
@RUN
@click.option("--bundle", type=BundlePath(), help="Bundle of the run, to add its size and speed.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Page to write; default: RUN/report.html.")
def report(run_path: Path, bundle: Path | None, out: Path | None) -> None:
    """Write an HTML page about the run folder RUN, with data, metrics, plots and provenance."""
    from musix_runtime.atomic import check_file, write_file
    from musix_trainer.evaluation.report import write

    out = out or run_path / "report.html"
    check_file(out)
    write_file(out, write(run_path, bundle).encode())
    click.echo(out)


@click.command()
@RECIPE
@DATA
@OUT
@click.option("--trials", required=True, type=click.IntRange(1), help="Trials of the part, and of each baseline.")
@click.option(
    "--part", type=click.Choice(["collab", "genre"]), default="collab", show_default=True, help="Part to tune."
)
@click.option(
    "--write", type=click.Path(dir_okay=False, path_type=Path), help="Recipe to write; default: OUT/NAME.toml."
)
def tune(recipe_path: Path, data: Path | None, out: Path, trials: int, part: str, write: Path | None) -> None:
    """Search hyper-parameters of RECIPE on its validation part, and write a recipe with the best.

    Trials are stored in OUT/studies: a later call resumes and extends the search.
    """
    from musix_runtime.atomic import check_file, write_file, writing
    from musix_trainer import recipe

    recipe_file = recipe.read(recipe_path)  # before the import of what takes seconds
    write = write or out / f"{recipe_file.recipe.name}.toml"
    check_file(write)
    from musix_trainer.evaluation.tuning import tune as search

    with writing(out / "studies"):
        text = search(recipe_file, data, part, trials, out / "studies")
    write_file(write, text.encode())
    click.echo(write)


@click.group(name="import")
def import_() -> None:
    """Convert public data sets to the standard tables."""


@import_.command()
@click.argument("raw", type=click.Path(path_type=Path))
@click.option("--tracks", required=True, type=click.Path(path_type=Path), help="The tracks table, .csv or .parquet.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the two tables, new or empty.")
@DATES
def lastfm(raw: Path, tracks: Path, out: Path, dates: Path | None) -> None:
    """Convert the Last.fm tables in folder RAW.

    The tables are those of HetRec 2011; interactions with tracks are derived from them.
    """
    from musix_trainer.importers.lastfm import import_lastfm

    _show_import(import_lastfm(raw, tracks, out, dates), out)


@import_.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--tracks", required=True, type=click.Path(path_type=Path), help="The tracks table, .csv or .parquet.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the two tables, new or empty.")
@click.option("--playlist", default="playlist_id", show_default=True, help="Column of the playlist.")
@click.option("--track", default="track_id", show_default=True, help="Column of the track id, if any.")
@click.option("--title", default="track_name", show_default=True, help="Column of the title, if any.")
@click.option("--artist", default="track_artist", show_default=True, help="Column of the artist, if any.")
@DATES
def playlists(file: Path, tracks: Path, out: Path, dates: Path | None, **columns: str) -> None:
    """Convert the playlists in FILE.

    FILE has one row for each playlist and track, of which interactions of playlists are made. Tracks are joined to the
    tracks table by id, else by title and artist.
    """
    from musix_trainer.importers.playlists import Columns, import_playlists

    _show_import(import_playlists(file, tracks, out, Columns(**columns), dates), out)


def _show_import(notes: dict[str, int | str], out: Path) -> None:
    for name, value in notes.items():
        click.echo(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}")
    click.echo(f"{out}: tracks.parquet, listening.parquet")


@import_.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--tracks", required=True, type=click.Path(path_type=Path), help="The tracks table, .csv or .parquet.")
@click.option("--tags", type=click.Path(path_type=Path), help="Folder of Last.fm's tables, whose mood tags are added.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="New .parquet file.")
def moods(file: Path, tracks: Path, tags: Path | None, out: Path) -> None:
    """Join the moods in FILE with tracks.

    FILE says what people heard in songs: valence and arousal, or a mood.
    """
    from musix_trainer.importers.moods import import_moods

    for name, value in import_moods(file, tracks, tags, out).items():
        click.echo(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}")
    click.echo(out)


@click.group()
def feedback() -> None:
    """Use the feedback that a server recorded."""


@feedback.command(name="export")
@click.argument("database", required=False, envvar="MUSIX_FEEDBACK")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the tables.")
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="First day, by UTC; default: all days.")
def export_feedback(database: str | None, out: Path, since: datetime | None) -> None:
    """Write the events in DATABASE as tables.

    These are OUT/listening/DAY.parquet and OUT/feedback/DAY.parquet. DATABASE is the URL that `musix serve --feedback`
    takes; default: $MUSIX_FEEDBACK. Files of these days are replaced; what was exported and is no longer in the
    database is kept, but for listeners who were forgotten.
    """
    from musix_trainer.importers.feedback import export_feedback

    if database is None:
        raise click.MissingParameter(param_hint="'DATABASE' (env var: 'MUSIX_FEEDBACK')", param_type="argument")
    for name, value in export_feedback(database, out, since.date() if since else None).items():
        click.echo(f"{name}: {value:,}")
    click.echo(f"{out}: listening, feedback")


@click.command()
@click.argument("paths", metavar="[RUN]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--all", "every", is_flag=True, help="Show all metrics; default: those with a gate in a recipe.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def runs(paths: tuple[Path, ...], every: bool, as_json: bool) -> None:
    """List runs and compare their metrics. Each RUN is a run folder or a folder of runs; default: build/runs."""
    from musix_runtime.cli.output import print_json, print_line
    from musix_trainer import runs as run_table

    found = run_table.find(paths or (Path("build/runs"),))
    if as_json:
        print_json([{"path": str(each.path), "metrics": each.metrics} for each in found])
    else:
        for line in run_table.table(found, every):
            print_line(line)
