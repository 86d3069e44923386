from pathlib import Path

import polars as pl
import pytest

from musix_runtime.errors import OutputError, TableError
from musix_trainer.data import synthetic, tables
from musix_trainer.importers.lastfm import import_lastfm
from musix_trainer.recipe import Synthetic


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    tracks = synthetic.generate(Synthetic(tracks=600, listeners=10), 1).tracks
    tracks.write_parquet(tmp_path / "tracks.parquet")
    artists = {"id": [1, 2, 3], "name": ["simulated artist 0001", "The Simulated Artist 0002", "Unheard Of"]}
    pl.DataFrame(artists).write_parquet(tmp_path / "lastfm2k_artists.parquet")
    plays = {"userID": [7, 7, 9], "artistID": [1, 3, 2], "weight": [100, 5, 40]}
    pl.DataFrame(plays).write_parquet(tmp_path / "lastfm2k_user_artists.parquet")
    return tmp_path


def test_artist_is_replaced_by_its_most_popular_recording(raw: Path) -> None:
    notes = import_lastfm(raw, raw / "tracks.parquet", raw / "out")
    assert (notes["pairs matched"], notes["listeners"]) == (2, 2)
    source = tables.read(raw / "out" / "listening.parquet")
    assert "most popular recording" in source.notes["derivation"]
    assert source.frame["user_id"].to_list() == ["7", "9"]
    assert source.frame["plays"].to_list() == [100, 40]
    tracks = pl.read_parquet(raw / "tracks.parquet")
    of_artist = tracks.filter(pl.col("artists") == "Simulated Artist 0001")
    chosen = of_artist.filter(pl.col("track_id") == source.frame["track_id"][0])
    assert chosen["popularity"].max() == of_artist["popularity"].max()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("artists", {"id": [1, 1, 3]}, r"lastfm2k_artists\.parquet: id: expected each once, found '1' again"),
        ("user_artists", {"weight": [1e308, 1, 1]}, r"weight: expected 0\.\.1e\+12, found 1e\+308"),
        ("user_artists", {"artistID": [8, 8, 9]}, "expected plays of artists of the catalogue, found none"),
    ],
)
def test_tables_that_would_give_wrong_plays_are_refused(
    raw: Path, name: str, change: dict[str, list[float]], message: str
) -> None:
    path = raw / f"lastfm2k_{name}.parquet"
    pl.read_parquet(path).with_columns(**{key: pl.Series(values) for key, values in change.items()}).write_parquet(path)
    with pytest.raises(TableError, match=message):
        import_lastfm(raw, raw / "tracks.parquet", raw / "out")
    assert not (raw / "out").exists()


def test_import_never_overwrites_and_writes_all_or_nothing(raw: Path) -> None:
    (raw / "out").mkdir()
    (raw / "out" / "mine").touch()
    with pytest.raises(OutputError, match="expected a new name or an empty folder"):
        import_lastfm(raw, raw / "tracks.parquet", raw / "out")
    with pytest.raises(TableError, match="expected a table, found: No such file"):
        import_lastfm(raw, raw / "none.parquet", raw / "out2")
    assert not (raw / "out2").exists()
