"""The benchmark protocols `temporal` and `held_out_20`, on tags whose structure is known."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from musix_runtime.errors import InputError, TableError
from musix_trainer import cli, recipe
from musix_trainer.evaluation import benchmark, evaluate
from musix_trainer.models.collab import DAY

RECIPE = """
name = "tags"
version = "1.0.0"
source = "lastfm"
[tables]
listening = "tags.parquet"
[split]
by = "time"
before = 2010-07-01
[collab]
loss = "warp"
learning_schedule = "adagrad"
epochs = 10
no_components = 8
"""
CUT = int(datetime(2010, 7, 1, tzinfo=UTC).timestamp())
OLD, RECENT, LATER = CUT - 400 * DAY, CUT - 10 * DAY, CUT + 10 * DAY


@pytest.fixture
def tags(tmp_path: Path) -> Path:
    """Return a folder with a recipe, and the tags of 80 listeners in 4 groups of 12 artists, and of 6 new artists.

    Each listener tags seven artists of the group long before the date, and the others after it. A tenth of the
    listeners tags the new artists shortly before the date, and all others after it. One listener comes after it.
    """
    rng, rows = np.random.default_rng(0), []
    for user in range(80):
        own = 12 * (user % 4) + rng.permutation(12)
        new = [(f"u{user}", f"new{i}", RECENT if user % 10 == 0 else LATER) for i in range(6)]
        rows += [(f"u{user}", f"a{each}", OLD if i < 7 else LATER) for i, each in enumerate(own)] + new
    rows += [("u0", f"a{i}", LATER + DAY) for i in range(48) if i % 4 == 0]
    rows += [("late", f"a{i}", LATER) for i in range(12)] + [("u1", "a1", -400_000_000)]
    times = pl.DataFrame(rows, schema=["userID", "artistID", "timestamp"], orient="row")
    table = times.with_columns(pl.col("timestamp") * 1000, tagID=pl.lit(1))
    table.write_parquet(tmp_path / "tags.parquet")
    (tmp_path / "tags.toml").write_text(RECIPE)
    return tmp_path


def test_split_by_time_has_pairs_of_known_listeners_and_artists(tags: Path) -> None:
    interactions = benchmark.read(recipe.read(tags / "tags.toml").recipe, tags)
    assert "late" not in interactions.names
    assert len(np.unique(interactions.row)) == 54
    assert set(interactions.last.tolist()) == {OLD, RECENT, LATER, LATER + DAY}
    own = interactions.last[interactions.listener == interactions.names.index("u4")]
    assert (own < CUT).sum() == 7


def test_groups_are_continued_after_the_date_and_new_artists_by_recent_popularity(tags: Path) -> None:
    options = ["--data", str(tags), "--out", str(tags)]
    CliRunner().invoke(cli.train, [str(tags / "tags.toml"), *options], catch_exceptions=False)
    path = tags / "runs" / "tags-1.0.0"
    ndcg = evaluate.evaluate(path, ("temporal",), 1)["temporal"]["full"]["ndcg_at_10"]
    baselines = ndcg["baselines"]
    assert ndcg["value"] > 1.5 * baselines["popularity"]
    assert baselines["EASE"] > 1.5 * baselines["popularity"]
    assert baselines["popularity_of_six_months"] > 1.5 * baselines["popularity"]
    held_out = evaluate.evaluate(path, ("held_out_20",), 1)["held_out_20"]["full"]["ndcg_at_10"]
    assert held_out["low"] > held_out["baselines"]["popularity"]


def test_temporal_requires_a_date_and_times(tags: Path) -> None:
    text = RECIPE.replace('by = "time"\nbefore = 2010-07-01', 'by = "track"')
    (tags / "track.toml").write_text(text.replace("epochs = 10", "epochs = 1"))
    options = ["--data", str(tags), "--out", str(tags)]
    CliRunner().invoke(cli.train, [str(tags / "track.toml"), *options], catch_exceptions=False)
    with pytest.raises(InputError, match=r"temporal: expected a run whose recipe has \[split\] by = \"time\" and"):
        evaluate.evaluate(tags / "runs" / "tags-1.0.0", ("temporal",), 1)
    plays = pl.read_parquet(tags / "tags.parquet").drop("timestamp").with_columns(weight=pl.lit(1))
    plays.write_parquet(tags / "tags.parquet")
    with pytest.raises(TableError, match="expected a column timestamp, as the recipe splits by time, found none"):
        benchmark.read(recipe.read(tags / "tags.toml").recipe, tags)
