"""Tables that hold too little to learn from: one sentence with the table, what is needed and what was found."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from musix_exporter import export
from musix_runtime.errors import TableError
from musix_trainer import pipeline, recipe
from musix_trainer.data import synthetic
from musix_trainer.data.synthetic import World
from musix_trainer.models import mood
from tests.conftest import ROOT
from tests.recipes import SMALL

TABLES = SMALL.replace('"synthetic"', '"tables"').replace("[synthetic]\ntracks = 800\nlisteners = 100\n", "")


@pytest.fixture(scope="module")
def small_world() -> World:
    settings = recipe.parse(SMALL.encode(), Path("small.toml")).recipe
    return synthetic.generate(settings.synthetic, settings.seed)


NO_SHARED_TRACKS = "20 tracks of the catalogue that two listeners or more heard, from which collab learns, found"
FEW_LISTENERS = "20 listeners with two tracks of the catalogue or more, from whom the ranker learns, found"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (pl.col("user_id") == "listener-001", f"{NO_SHARED_TRACKS} 0"),
        (pl.col("track_id") == pl.col("track_id").first(), f"{NO_SHARED_TRACKS} 1"),
        (pl.col("track_id").is_first_distinct(), f"{NO_SHARED_TRACKS} 0"),
        (pl.col("user_id").rank("dense") <= 19, f"{FEW_LISTENERS} 19"),
    ],
    ids=["one listener", "one track", "no track twice", "19 listeners"],
)
def test_listening_that_is_too_little(tmp_path: Path, small_world: World, rows: pl.Expr, expected: str) -> None:
    small_world.tracks.write_parquet(tmp_path / "tracks.parquet")
    small_world.listening.filter(rows).write_parquet(tmp_path / "listening.parquet")
    settings = recipe.parse(TABLES.encode(), Path("small.toml"))
    with pytest.raises(TableError) as error:
        pipeline.train(settings, tmp_path)
    assert str(error.value) == f"{tmp_path / 'listening.parquet'}: expected at least {expected}"


def test_the_recipe_to_copy_reads_tables_of_csv(tmp_path: Path, small_world: World) -> None:
    small_world.tracks.write_csv(tmp_path / "tracks.csv")
    small_world.listening.write_csv(tmp_path / "listening.csv")
    settings = recipe.read(ROOT / "bundles" / "own.toml")
    tracks, listening = pipeline.tables_of(settings, tmp_path)
    assert (len(tracks), listening.listeners) == (800, 100)
    assert settings.recipe.gates == recipe.Gates()


def test_a_catalogue_without_names_of_artists_becomes_a_bundle(tmp_path: Path, small_world: World) -> None:
    small_world.tracks.with_columns(artists=pl.lit("-")).write_parquet(tmp_path / "tracks.parquet")
    small_world.listening.write_parquet(tmp_path / "listening.parquet")
    trained = pipeline.train(recipe.parse(TABLES.encode(), Path("small.toml")), tmp_path)
    bundle = export.export(trained, tmp_path / "bundle")
    assert bundle.manifest.counts["artists"] == 0


def test_tracks_of_equal_sound_have_no_mood_to_learn() -> None:
    audio = np.full((100, 12), 0.5, np.float32)
    with pytest.raises(TableError, match=r"mood: expected audio features .*, found none of 20 with one"):
        mood.train(audio, recipe.Mood(epochs=1), seed=0)
