from datetime import date
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from musix_runtime.errors import TableError
from musix_trainer import cli
from musix_trainer.data import synthetic, tables
from musix_trainer.data.tracks import read_tracks
from musix_trainer.importers import release_dates
from musix_trainer.recipe import Synthetic


@pytest.fixture
def tracks(tmp_path: Path) -> Path:
    """The tracks table without release dates. Some tracks have several rows."""
    table = synthetic.generate(Synthetic(tracks=600, listeners=10), 1).tracks.drop("release_date")
    table.write_parquet(tmp_path / "tracks.parquet")
    return tmp_path / "tracks.parquet"


@pytest.fixture
def names(tracks: Path) -> list[tuple[str, str]]:
    """Titles and artists of three recordings."""
    return pl.read_parquet(tracks).unique("track_name", maintain_order=True).select("track_name", "artists").rows()[:3]


@pytest.fixture
def dates(tracks: Path, names: list[tuple[str, str]]) -> Path:
    """One recording has two dates, one a year only, one none."""
    first, second, _ = names
    rows = [
        (f"{first[0].upper()} - Remastered|{first[1]}", "2004-02-29"),
        ("|".join(first), "1969-12-31"),
        (f"{second[0]} (feat. A Guest)|the {second[1]}", "1999"),
        ("No Such Song|Nobody", "2001-05"),
    ]
    pl.DataFrame(rows, ["key", "release_date"], orient="row").write_csv(tracks.parent / "dates.csv")
    return tracks.parent / "dates.csv"


def imported(kind: str, tracks: Path, dates: Path) -> pl.DataFrame:
    """Return the tracks table that a command writes, and check what the command prints."""
    folder = tracks.parent
    one = pl.read_parquet(tracks)[0]
    one.select("track_id", playlist_id=pl.lit("x")).write_parquet(folder / "playlists.parquet")
    one.select(id=pl.lit(1), name="artists").write_parquet(folder / "lastfm2k_artists.parquet")
    plays = pl.DataFrame({"userID": [7], "artistID": [1], "weight": [2]})
    plays.write_parquet(folder / "lastfm2k_user_artists.parquet")
    source = folder / "playlists.parquet" if kind == "playlists" else folder
    arguments = [kind, source, "--tracks", tracks, "--release-dates", dates, "--out", folder / "out"]
    result = CliRunner().invoke(cli.import_, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    assert "recordings with a release date: 2" in result.output
    assert "earliest" in tables.read(folder / "out" / "tracks.parquet").notes["derivation"]
    return pl.read_parquet(folder / "out" / "tracks.parquet")


@pytest.mark.parametrize("kind", ["playlists", "lastfm"])
def test_recording_has_its_earliest_date(kind: str, tracks: Path, dates: Path, names: list[tuple[str, str]]) -> None:
    table = imported(kind, tracks, dates)
    assert table.drop("release_date").equals(pl.read_parquet(tracks))
    titles = [title for title, _ in names]
    found = table.filter(pl.col("track_name").is_in(titles)).select("track_name", "release_date").unique()
    assert dict(found.rows()) == dict(zip(titles, [date(1969, 12, 31), date(1999, 1, 1), None], strict=True))
    others = table.filter(~pl.col("track_name").is_in(titles))
    assert others["release_date"].null_count() == others.height
    seconds = read_tracks(tables.read(tracks.parent / "out" / "tracks.parquet")).frame["release_date"]
    assert sorted(seconds.drop_nulls()) == [-86_400, 915_148_800]


def test_wrong_release_dates_are_refused(tracks: Path, dates: Path) -> None:
    read = pl.read_csv(dates, infer_schema=False)

    def refused(frame: pl.DataFrame, message: str) -> None:
        frame.write_csv(dates)
        with pytest.raises(TableError, match=message):
            release_dates.add(tables.read(tracks), dates)

    refused(read.rename({"key": "name"}), "expected the columns key, found only name, release_date")
    refused(
        read.with_columns(release_date=pl.lit("1999-02-30")),
        "release_date: expected a time, such as .*, found '1999-02-30'",
    )
    refused(read.with_columns(release_date=pl.lit("1066-10-14")), "release_date: expected seconds since 1970, found")
    refused(read[3:], "key: expected recordings of .*, found none by title and artist")
    pl.read_parquet(tracks).with_columns(release_date=pl.lit("1999")).write_parquet(tracks)
    refused(read, "release_date: expected no such column beside a table of release dates, found one; remove one")
