"""Tables that hold too little to learn from: one sentence with the table, what is needed and what was found."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from musix_runtime.errors import TableError
from musix_trainer import pipeline, recipe
from musix_trainer.data import synthetic
from musix_trainer.data.synthetic import World
from musix_trainer.models import mood
from tests.recipes import SMALL

TABLES = SMALL.replace('"synthetic"', '"tables"').replace("[synthetic]\ntracks = 800\nlisteners = 100\n", "")
LEARNED = "[ranker]\nfolds = 2"  # the ranker learns from listeners that are left out of the training


@pytest.fixture(scope="module")
def small_world() -> World:
    settings = recipe.parse(SMALL.encode(), Path("small.toml")).recipe
    return synthetic.generate(settings.synthetic, settings.seed)


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (pl.col("user_id") == "listener-001", 1),
        (pl.col("user_id").is_in(["listener-001", "listener-002"]), 2),
        (pl.col("track_id") == pl.col("track_id").first(), 0),
        (pl.col("user_id").is_first_distinct(), 0),
    ],
    ids=["one listener", "two listeners", "one track", "one track of each listener"],
)
@pytest.mark.parametrize("ranker", ["[ranker]", LEARNED])
def test_listening_of_too_few_listeners(
    tmp_path: Path, small_world: World, rows: pl.Expr, found: int, ranker: str
) -> None:
    small_world.tracks.write_parquet(tmp_path / "tracks.parquet")
    small_world.listening.filter(rows).write_parquet(tmp_path / "listening.parquet")
    settings = recipe.parse(TABLES.replace("[ranker]", ranker).encode(), Path("small.toml"))
    with pytest.raises(TableError) as error:
        pipeline.train(settings, tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'listening.parquet'}: expected at least 20 listeners with two tracks of the catalogue or more,"
        f" from whom the ranker learns, found {found}"
    )


def test_tracks_of_equal_sound_have_no_mood_to_learn() -> None:
    audio = np.full((100, 12), 0.5, np.float32)
    with pytest.raises(TableError, match="mood: expected audio features .*, found none of 20 with one"):
        mood.train(audio, recipe.Mood(epochs=1), seed=0)
