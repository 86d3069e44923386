import resource
from pathlib import Path

import polars as pl
import pytest

from musix_runtime.errors import OutputError, TableError
from musix_trainer.data import synthetic, tables
from musix_trainer.data.moods import read_moods
from musix_trainer.data.tracks import Tracks, read_tracks
from musix_trainer.importers.moods import import_moods
from musix_trainer.recipe import Synthetic


@pytest.fixture
def catalogue(tmp_path: Path) -> Tracks:
    synthetic.generate(Synthetic(tracks=600, listeners=10), 1).tracks.write_parquet(tmp_path / "tracks.parquet")
    return read_tracks(tables.read(tmp_path / "tracks.parquet"))


def songs(catalogue: Tracks) -> pl.DataFrame:
    """Return a table like Deezer's, with other spellings: odd numbers of titles are bright, high ones loud."""
    number = catalogue.frame["track_name"].str.slice(-5).cast(pl.Int64)
    return pl.DataFrame(
        {
            "artist_name": catalogue.frame["artists"].str.to_uppercase(),
            "track_name": catalogue.frame["track_name"] + " (Remastered)",
            "valence": (number % 2 - 0.5) * 4,
            "arousal": (number > 300).cast(pl.Float64) * 2 - 1,
        }
    )


def run(tmp_path: Path, frame: pl.DataFrame, tags: Path | None = None) -> pl.DataFrame:
    frame.write_parquet(tmp_path / "songs.parquet")
    import_moods(tmp_path / "songs.parquet", tmp_path / "tracks.parquet", tags, tmp_path / "moods.parquet")
    return tables.read(tmp_path / "moods.parquet").frame


def test_quadrants_are_joined_by_title_and_artist(tmp_path: Path, catalogue: Tracks) -> None:
    other = pl.DataFrame({"artist_name": ["A"], "track_name": ["B"], "valence": [1.0], "arousal": [1.0]})
    table = run(tmp_path, songs(catalogue).vstack(other))
    assert table.height == len(catalogue)
    joined = table.join(catalogue.frame, on="track_id").with_columns(
        number=pl.col("track_name").str.slice(-5).cast(pl.Int64)
    )
    bright, loud = pl.col("number") % 2 == 1, pl.col("number") > 300
    for mood, condition in {"happy": bright & loud, "sad": ~bright & ~loud, "energetic": ~bright & loud}.items():
        assert joined.filter(condition)[mood].min() > 0.9
    moods = read_moods(tables.read(tmp_path / "moods.parquet"), catalogue)
    assert len(moods.row) == len(catalogue)  # split by artist: no row is dropped
    assert "quadrants of valence and arousal" in tables.read(tmp_path / "moods.parquet").notes["derivation"]


def test_mood_labels_are_joined_by_id(tmp_path: Path, catalogue: Tracks) -> None:
    ids = [f"spotify:track:{each}" for each in catalogue.frame["track_id"]]
    table = run(tmp_path, pl.DataFrame({"track_id": ids, "mood": "Sad", "split": "train"}))
    assert table["track_id"].sort().to_list() == catalogue.frame["track_id"].sort().to_list()
    assert (table["sad"].min(), table["happy"].max()) == (1, 0)
    assert set(table["split"]) == {"train"}


def test_tags_of_artists_have_the_split_of_their_artist(tmp_path: Path, catalogue: Tracks) -> None:
    """Artists 1 and 2 have tags; artist 2 is in the test split of the songs, and thus gets none."""
    artists = {"id": [1, 2, 3], "name": ["Simulated Artist 0001", "The Simulated Artist 0002", "Unheard Of"]}
    pl.DataFrame(artists).write_parquet(tmp_path / "lastfm2k_artists.parquet")
    tags = {"tagID": [1, 2, 3], "tagValue": ["Chillout", "sad", "metal"]}
    pl.DataFrame(tags).write_parquet(tmp_path / "lastfm2k_tags.parquet")
    tagged = {"userID": [7, 8, 9, 9, 9], "artistID": [1, 1, 1, 2, 1], "tagID": [1, 1, 1, 1, 2]}
    pl.DataFrame(tagged).write_parquet(tmp_path / "lastfm2k_user_taggedartists-timestamps.parquet")
    second = pl.col("artist_name") == "SIMULATED ARTIST 0002"
    splits = pl.when(second).then(pl.lit("test")).otherwise(pl.lit("train"))
    table = run(tmp_path, songs(catalogue).with_columns(split=splits), tmp_path)
    tagged_rows = table.filter(pl.col("source") == "tags").join(catalogue.frame, on="track_id")
    assert set(tagged_rows["artists"]) == {"Simulated Artist 0001"}
    assert tagged_rows.select("happy", "sad", "energetic", "calm", "split").unique().rows() == [
        (0, 0.25, 0, 0.75, "train")
    ]
    assert tagged_rows.height == (catalogue.frame["artists"] == "Simulated Artist 0001").sum()


def test_a_wrong_number_beside_no_title_is_named(tmp_path: Path, catalogue: Tracks) -> None:
    frame = songs(catalogue).with_columns(track_name=pl.lit(None, pl.String), valence=float("inf"))
    with pytest.raises(TableError, match=r"valence: expected a finite number, found inf at a row without track_name"):
        run(tmp_path, frame)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"valence": pl.col("valence").abs()},
            "valence: expected values on both sides of 0, found others; centre them",
        ),
        ({"artist_name": pl.lit("Nobody")}, "expected songs of the catalogue, found none"),
        ({"mood": pl.lit("grim"), "arousal": None}, "mood: expected happy, sad, energetic, calm, found grim"),
        ({"split": pl.lit("Train")}, "split: expected train, validation, test, found Train"),
        ({"split": pl.lit(None, pl.String)}, "split: expected train, validation, test, found none"),
        ({"arousal": None}, "expected the columns valence and arousal, or mood, found only artist_name"),
        ({"artist_name": None}, "expected the column track_id, or artist_name and track_name, found only"),
    ],
)
def test_wrong_songs_are_refused(
    tmp_path: Path, catalogue: Tracks, change: dict[str, pl.Expr | None], message: str
) -> None:
    frame = songs(catalogue).with_columns(**{name: each for name, each in change.items() if each is not None})
    frame = frame.drop(name for name, each in change.items() if each is None)
    with pytest.raises(TableError, match=message):
        run(tmp_path, frame)
    assert not (tmp_path / "moods.parquet").exists()


def test_a_full_disk_leaves_no_half_table(tmp_path: Path, catalogue: Tracks) -> None:
    songs(catalogue).write_parquet(tmp_path / "songs.parquet")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limit[1]))
    try:
        with pytest.raises(OutputError, match=r"moods\.parquet: expected a place to write to, found: "):
            import_moods(tmp_path / "songs.parquet", tmp_path / "tracks.parquet", None, tmp_path / "moods.parquet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert {path.name for path in tmp_path.iterdir()} == {"songs.parquet", "tracks.parquet"}


def test_import_never_overwrites(tmp_path: Path, catalogue: Tracks) -> None:
    run(tmp_path, songs(catalogue))
    with pytest.raises(OutputError, match=r"moods\.parquet: expected a new \.parquet file, found one"):
        run(tmp_path, songs(catalogue))
