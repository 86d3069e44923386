from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from musix_runtime.errors import TableError
from musix_trainer.data import split
from musix_trainer.data.moods import Moods, read_moods
from musix_trainer.data.synthetic import generate_tables
from musix_trainer.data.tables import Table
from musix_trainer.data.tracks import Tracks, read_tracks
from musix_trainer.recipe import Synthetic
from tests.recipes import moods_table


@pytest.fixture(scope="module")
def catalogue() -> Tracks:
    return read_tracks(generate_tables(Synthetic(tracks=600, listeners=10), 1)["tracks"])


def table(frame: pl.DataFrame) -> Table:
    return Table(frame, "moods.parquet", "0" * 64)


def test_moods_are_read_as_shares_and_saved(catalogue: Tracks, tmp_path: Path) -> None:
    frame = moods_table(catalogue)
    doubled = frame.with_columns(pl.col("happy", "sad", "energetic", "calm") / 2)
    source = table(doubled.vstack(doubled.head(1).with_columns(track_id=pl.lit("unknown"))))
    moods = read_moods(source, catalogue)
    assert source.notes["dropped: track not in the catalogue"] == 1
    np.testing.assert_allclose(moods.shares.sum(axis=1), 1, rtol=1e-6)
    assert moods.sources == ["planted"]
    assert len(moods.row) == len(catalogue)
    moods.save(tmp_path / "moods")
    for name, array in vars(Moods.load(tmp_path / "moods")).items():
        np.testing.assert_array_equal(array, getattr(moods, name))


def test_no_artist_is_in_two_splits(catalogue: Tracks) -> None:
    rng = np.random.default_rng(0)
    frame = moods_table(catalogue).with_columns(split=pl.Series(rng.choice(["train", "validation", "test"], 600)))
    frame = frame.with_columns(split=pl.when(pl.int_range(600) % 3 == 0).then("split").otherwise(pl.lit("train")))
    source = table(frame)
    moods = read_moods(source, catalogue)
    artists = np.array(catalogue.primary_artists())[moods.row]
    parts = [set(artists[moods.part == part]) for part in (split.TRAIN, split.VALIDATION, split.TEST)]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert source.notes["dropped: artist in a later split too"] > 0
    assert parts[2] == set(np.array(catalogue.primary_artists())[(frame["split"] == "test").to_numpy()])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.lit("dev").alias("split"), "split: expected train, validation, test, found dev"),
        (pl.lit(1.5).alias("happy"), r"happy: expected 0\.\.1, found 1\.5 at track_id"),
        (
            pl.lit("other").alias("track_id"),
            "expected rows, found none: [0-9,]+ name a track that is not in the catalogue, such as 'other'",
        ),
        (
            pl.lit("train").alias("split"),
            "expected at least 20 recordings .* found 600 in train, 0 in validation, 0 in",
        ),
    ],
)
def test_wrong_table_is_refused(catalogue: Tracks, change: pl.Expr, message: str) -> None:
    with pytest.raises(TableError, match=message):
        read_moods(table(moods_table(catalogue).with_columns(change)), catalogue)


def test_missing_column_is_refused(catalogue: Tracks) -> None:
    with pytest.raises(TableError, match="expected the columns calm, found only track_id"):
        read_moods(table(moods_table(catalogue).drop("calm")), catalogue)


def test_catalogues_of_other_tracks_keep_their_own_rows(catalogue: Tracks) -> None:
    fewer = replace(catalogue, ids=catalogue.ids.head(300))
    assert len(read_moods(table(moods_table(catalogue)), fewer).row) <= 300
