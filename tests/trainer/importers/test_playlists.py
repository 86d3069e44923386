from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from musix_runtime.errors import InputError, OutputError, TableError
from musix_trainer import cli
from musix_trainer.data import synthetic, tables
from musix_trainer.data.interactions import read_interactions
from musix_trainer.data.tracks import read_tracks
from musix_trainer.importers.playlists import Columns, import_playlists
from musix_trainer.recipe import Synthetic


@pytest.fixture
def tracks(tmp_path: Path) -> Path:
    synthetic.generate(Synthetic(tracks=600, listeners=10), 1).tracks.write_parquet(tmp_path / "tracks.parquet")
    return tmp_path / "tracks.parquet"


@pytest.fixture
def playlists(tracks: Path) -> Path:
    """Two playlists: one track by URI, one by title and artist, one twice, one that is not in the catalogue."""
    first, second = pl.read_parquet(tracks).unique("track_name", maintain_order=True).rows(named=True)[:2]
    rows = [
        ("one", f"spotify:track:{first['track_id']}", None, None),
        ("one", "elsewhere", f"{second['track_name'].upper()} - Remastered", f"{second['artists']};A Guest"),
        ("one", first["track_id"], None, None),
        ("one", "unknown", "No Such Song", "Nobody"),
        ("two", "unknown", "No Such Song", "Nobody"),
        ("three", second["track_id"], None, None),
    ]
    frame = pl.DataFrame(rows, ["playlist_id", "track_id", "track_name", "track_artist"], orient="row")
    frame.write_parquet(tracks.parent / "playlists.parquet")
    return tracks.parent / "playlists.parquet"


def test_playlists_are_listeners_of_tracks_joined_by_id_or_key(tracks: Path, playlists: Path) -> None:
    out = tracks.parent / "out"
    notes = import_playlists(playlists, tracks, out, Columns())
    assert (notes["joined by id"], notes["joined by title and artist"]) == (3, 1)
    assert (notes["playlists"], notes["playlists with tracks of the catalogue"]) == (3, 2)
    catalogue = read_tracks(tables.read(out / "tracks.parquet"))
    interactions = read_interactions(tables.read(out / "listening.parquet"), catalogue)
    first, second = pl.read_parquet(tracks).unique("track_name", maintain_order=True)["track_id"].to_list()[:2]
    row = dict(catalogue.ids.iter_rows())
    expected = {("one", row[first]), ("one", row[second]), ("three", row[second])}
    names = [interactions.names[i] for i in interactions.listener]
    assert set(zip(names, interactions.row.tolist(), strict=True)) == expected
    assert interactions.plays.tolist() == [1, 1, 1]


def test_columns_have_names_of_their_own_and_ids_may_be_missing(tracks: Path, playlists: Path) -> None:
    frame = pl.read_parquet(playlists).select(pid="playlist_id", song="track_name", by="track_artist")
    frame.write_csv(tracks.parent / "mine.csv")
    out = tracks.parent / "out"
    arguments = [str(tracks.parent / "mine.csv"), "--tracks", str(tracks), "--out", str(out)]
    result = CliRunner().invoke(cli.import_, ["playlists", *arguments])
    assert isinstance(result.exception, TableError)
    result = CliRunner().invoke(
        cli.import_, ["playlists", *arguments, "--playlist", "pid", "--title", "song", "--artist", "by"]
    )
    assert result.exit_code == 0, result.output
    assert "joined by title and artist: 1" in result.output
    assert pl.read_parquet(out / "listening.parquet").height == 1


def test_one_column_is_not_two(tracks: Path, playlists: Path) -> None:
    with pytest.raises(
        InputError, match=r"expected different columns, found track_id, track_id, track_name, track_art"
    ):
        import_playlists(playlists, tracks, tracks.parent / "out", Columns(playlist="track_id"))
    assert not (tracks.parent / "out").exists()


def test_playlists_without_a_track_of_the_catalogue_are_refused(tracks: Path, playlists: Path) -> None:
    out = tracks.parent / "out"
    pl.read_parquet(playlists).filter(pl.col("playlist_id") == "two").write_parquet(playlists)
    with pytest.raises(TableError, match="found none by id or by title and artist"):
        import_playlists(playlists, tracks, out, Columns())
    assert not out.exists()
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(OutputError, match="expected a new name or an empty folder"):
        import_playlists(playlists, tracks, out, Columns())
