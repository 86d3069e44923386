from pathlib import Path

import numpy as np
import polars as pl
import pytest

from musix_runtime.errors import TableError
from musix_runtime.models.features import AUDIO_NAMES
from musix_trainer.data import families, synthetic, tables
from musix_trainer.data.tables import Table
from musix_trainer.data.tracks import Tracks, read_tracks, title_key
from musix_trainer.recipe import Synthetic

TABLE = synthetic.generate(Synthetic(tracks=600, listeners=10), 1).tracks


FAMILIES = families.read().labels


def read_frame(frame: pl.DataFrame) -> tuple[Tracks, Table]:
    source = Table(frame, "tracks.csv", "")
    return read_tracks(source), source


def changed(**columns: object) -> pl.DataFrame:
    """Return the table with other values in its first row."""
    row = pl.int_range(pl.len()) == 0
    return TABLE.with_columns(
        pl.when(row).then(pl.lit(value)).otherwise(pl.col(name)).alias(name) for name, value in columns.items()
    )


@pytest.mark.parametrize(
    ("title", "key"),
    [
        ("Song (feat. Someone)", "song"),
        ("Song - Remastered 2011", "song"),
        ("Song feat. Someone", "song"),
        ("Défeatist Señor", "defeatist senor"),
        ("Rock & Roll!", "rock and roll"),
        ("(Intro)", "intro"),
        ("???", "???"),
    ],
)
def test_title_key(title: str, key: str) -> None:
    assert title_key(title) == key


def test_ids_of_one_recording_are_merged_with_all_labels() -> None:
    tracks, source = read_frame(TABLE)
    assert source.notes["track ids"] == 612
    assert source.notes["recordings"] == len(tracks) == 600
    rows = dict(tracks.ids.iter_rows())
    assert rows["simulated0000000000050"] == rows["simulated0000000000650"]
    assert tracks.frame["track_id"].is_sorted()
    assert tracks.families.any(axis=1).all()
    assert tracks.inputs.shape == (600, 15)


def test_equal_audio_features_are_the_same_recording() -> None:
    twin = TABLE[:1].with_columns(
        track_id=pl.lit("twin"), track_name=pl.lit("Elsewhere"), artists=pl.lit("Someone Else")
    )
    tracks, _ = read_frame(pl.concat([TABLE, twin]))
    rows = dict(tracks.ids.iter_rows())
    assert rows["twin"] == rows["simulated0000000000000"]


def twin_of_the_first(**columns: object) -> pl.DataFrame:
    """Return the table with another id of its first recording, with other values and other audio features."""
    values = {"track_id": "twin", "energy": 0.123} | columns
    twin = TABLE[:1].with_columns(pl.lit(value).alias(name) for name, value in values.items())
    return pl.concat([TABLE, twin.cast(dict(TABLE.schema))])


@pytest.mark.parametrize(
    ("title", "seconds", "same"),
    [
        ("Simulated Song 00000 (Remastered)", 2.9, True),
        ("Simulated Song 00000 - Live", 3.1, False),
        ("Simulated Song 00000 - II. Adagio", 0, False),
        ("Simulated Song 00000 (Pt. 2)", 0, False),
        ("Another Song", 0, False),
    ],
)
def test_one_recording_has_one_title_and_one_duration(title: str, seconds: float, *, same: bool) -> None:
    duration = TABLE["duration_ms"][0] + int(1000 * seconds)
    tracks, _ = read_frame(twin_of_the_first(track_name=title, duration_ms=duration))
    rows = dict(tracks.ids.iter_rows())
    assert (rows["twin"] == rows["simulated0000000000000"]) is same


def test_audio_features_of_many_artists_identify_nothing() -> None:
    """Vectors that four artists have are filled in; those of three are one recording under several names."""
    for count, recordings in ((3, 600), (4, 603)):
        copies = [
            TABLE[:1].with_columns(track_id=pl.lit(f"copy {i}"), artists=pl.lit(f"Someone {i}"))
            for i in range(1, count)
        ]
        assert len(read_frame(pl.concat([TABLE, *copies]))[0]) == recordings


def test_label_without_family_keeps_the_track_without_a_genre() -> None:
    label = pl.when(pl.col("track_id") == "simulated0000000000003").then(pl.lit("party")).otherwise("track_genre")
    tracks, source = read_frame(TABLE.with_columns(track_genre=label))
    row = dict(tracks.ids.iter_rows())["simulated0000000000003"]
    assert source.notes["recordings without a genre family"] == 1
    assert len(tracks) == 600
    assert not tracks.families[row].any()
    known = tracks.with_family()
    assert len(known) == 599
    assert known.families.any(axis=1).all()
    assert "simulated0000000000003" not in known.ids["track_id"]
    rows = dict(known.ids.iter_rows())
    assert known.frame["track_id"][rows["simulated0000000000007"]] == "simulated0000000000007"


def test_read_tracks_does_not_depend_on_row_order() -> None:
    first, _ = read_frame(TABLE)
    second, _ = read_frame(TABLE.sample(fraction=1, shuffle=True, seed=3))
    assert first.frame.equals(second.frame)
    np.testing.assert_array_equal(first.families, second.families)
    np.testing.assert_array_equal(first.inputs, second.inputs)


def test_dropped_rows_are_counted() -> None:
    broken = changed(tempo=0.0).with_columns(
        track_name=pl.when(pl.int_range(pl.len()) == 1).then(None).otherwise(pl.col("track_name"))
    )
    _, source = read_frame(pl.concat([broken, broken[-1:]]))
    assert source.notes["dropped: failed audio analysis (tempo 0)"] == 1
    assert source.notes["dropped: no track_name"] == 1
    assert source.notes["dropped: same track and label twice"] == 1


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (TABLE.drop("tempo"), "tracks.csv: expected the columns tempo, found only track_id, track_name"),
        (TABLE[:0], "tracks.csv: expected rows, found none"),
        (
            pl.DataFrame({"user_id;track_id": []}),
            "found only user_id;track_id; separate the columns by commas, found ';'",
        ),
        (pl.DataFrame({"track_id\tkey": []}), "; separate the columns by commas, found '\\t'"),
        (TABLE.with_columns(explicit=pl.lit("yes")), "explicit: expected true or false, found 'yes' in row 1 (672 in"),
        (changed(energy=7.0), "energy: expected 0..1, found 7 at track_id 'simulated0000000000000' (1 in all)"),
        (changed(track_genre="polka"), "families.toml, found polka"),
        (TABLE.with_columns(energy=pl.lit("high")), "energy: expected a number, found 'high' in row 1 (672 in all)"),
        (
            pl.concat([TABLE, TABLE[1:2].with_columns(energy=0.123)]),
            "track_id: expected rows of one id to differ in label and popularity only, found 'simulated0000000000001'",
        ),
        (
            TABLE.with_columns(tempo=pl.lit(0.0)),
            "expected rows, found none: 672 have failed audio analysis (tempo 0), such as 'simulated0000000000000'",
        ),
    ],
)
def test_invalid_table_is_refused_with_its_column(frame: pl.DataFrame, message: str) -> None:
    with pytest.raises(TableError) as caught:
        read_frame(frame)
    assert message in str(caught.value)


def test_family_with_too_few_recordings_is_refused() -> None:
    comedy = TABLE.filter((pl.col("track_genre") != "comedy") | (pl.int_range(pl.len()) < 300))
    small = comedy.filter(~pl.col("track_genre").is_in(FAMILIES["stage"]) | (pl.col("track_genre") == "comedy"))
    with pytest.raises(
        TableError, match=r"expected at least 20 recordings of each family that occurs, found fewer of stage"
    ):
        read_frame(small)


def test_bare_year_is_read_as_its_first_day(tmp_path: Path) -> None:
    years = TABLE.with_columns(release_date=pl.lit("2024"))
    years.write_csv(tmp_path / "tracks.csv")
    for source in (tables.read(tmp_path / "tracks.csv"), Table(years.with_columns(release_date=2024), "tracks", "")):
        assert read_tracks(source).frame["release_date"].unique().to_list() == [1_704_067_200]


def test_too_few_families_are_refused() -> None:
    two = TABLE.filter(pl.col("track_genre").is_in([*FAMILIES["stage"], *FAMILIES["rock"]]))
    with pytest.raises(TableError, match="expected labels of at least 3 families, found rock, stage"):
        read_frame(two)


def test_downloaded_csv_is_read_like_parquet(tmp_path: Path) -> None:
    TABLE.with_row_index("").write_csv(tmp_path / "dataset.csv")
    TABLE.write_parquet(tmp_path / "tracks.parquet")
    csv, parquet = (read_tracks(tables.read(tmp_path / name)) for name in ("dataset.csv", "tracks.parquet"))
    assert csv.frame.equals(parquet.frame)
    np.testing.assert_allclose(csv.inputs, parquet.inputs, rtol=1e-6)
    assert len(AUDIO_NAMES) == 12


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "expected a table, found: No such file"),
        ("empty.csv", b"", "expected a readable table with a header"),
        ("tracks.xlsx", b"x", "expected a .csv or .parquet file, found .xlsx"),
        ("tracks.parquet", b"no parquet", "expected a readable table"),
    ],
)
def test_unreadable_file_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=message):
        tables.read(tmp_path / name)
