"""The protocols `playlists`, `zero_shot` and `temporal` on a small simulated run that splits by time, and the baselines
on data whose answer is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from scipy.sparse import csr_matrix

from musix_runtime.errors import InputError, LeakError
from musix_trainer import cli, pipeline, recipe
from musix_trainer.data import synthetic
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation import evaluate
from musix_trainer.evaluation.protocols.playlists import next_track
from musix_trainer.evaluation.protocols.playlists.baselines import Baselines
from musix_trainer.evaluation.protocols.playlists.ranks import LENGTHS, make_queries, rank_all
from musix_trainer.models.ranker.out_of_fold import assign_folds
from musix_trainer.run import Run
from tests.recipes import SMALL

BY_TIME = """
folds = 2
blend = "learned"
[split]
by = "time"
before = 2024-10-01
"""
BASELINES = {"popularity", "artist_popular", "ItemKNN", "EASE", "iALS", "EASE_artist_popular"}
OTHERS = BASELINES | {"fixed_blend"}


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.toml").write_text(SMALL + BY_TIME)  # folds and blend of the ranker
    pipeline.train(recipe.read(folder / "small.toml"), None).save(folder / "run")
    return folder / "run"


def test_each_length_of_the_history_has_intervals_and_paired_differences(small_run: Path) -> None:
    arguments = [str(small_run), "--protocol", "playlists", "--json", str(small_run.parent / "results.json")]
    assert CliRunner().invoke(cli.evaluate, arguments, catch_exceptions=False).exit_code == 0
    results = json.loads((small_run.parent / "results.json").read_bytes())["playlists"]
    assert set(results) == {*LENGTHS, "next_track"}
    for name, metrics in results.items():
        check(metrics, BASELINES | {"without_current_track"} if name == "next_track" else OTHERS)


def test_playlists_beside_the_listening_teach_the_ranker_and_are_not_served(tmp_path: Path) -> None:
    settings = SMALL.replace('"synthetic"', '"tables"').replace(
        "epochs = 2", 'epochs = 2\nfolds = 2\nblend = "learned"'
    )
    (tmp_path / "both.toml").write_text(settings + '[tables]\nplaylists = "playlists.parquet"\n')
    made = synthetic.generate(recipe.Synthetic(tracks=800, listeners=100), 0)
    made.tracks.write_parquet(tmp_path / "tracks.parquet")
    known = pl.col("user_id").str.contains("[0-5]$")
    made.listening.filter(known).write_parquet(tmp_path / "listening.parquet")
    made.listening.filter(~known).write_parquet(tmp_path / "playlists.parquet")
    run = pipeline.train(recipe.read(tmp_path / "both.toml"), tmp_path)
    names = made.listening["user_id"].unique().sort()
    assert [name.decode() for name in run.collab.listeners] == [name for name in names if name[-1] <= "5"]
    assert run.interactions.playlists == 40
    folds = assign_folds(run.interactions, 2, 0)
    assert np.bincount(folds[-40:]).tolist() == [20, 20]
    assert (folds[:-40] < 0).all()
    run.save(tmp_path / "run")
    assert Run.load(tmp_path / "run").interactions.playlists == 40


def check(metrics: dict[str, Any], baselines: set[str]) -> None:
    assert set(metrics) == {"ndcg_at_10", "r_precision", "hr_at_10", "recall_at_100"}
    for each in metrics.values():
        assert each["low"] <= each["value"] <= each["high"]
        assert set(each["better_by"]) == baselines


def test_listeners_of_another_table_are_continued_by_the_trained_models(small_run: Path, tmp_path: Path) -> None:
    """The other listeners hear the same as those of the run, so that to learn from these helps."""
    settings = recipe.read(small_run / "recipe.toml").recipe
    known = synthetic.generate(settings.synthetic, settings.seed).listening
    known = known.filter(pl.col("user_id").str.contains("[0-2]$"))  # 30 listeners
    known.write_parquet(tmp_path / "known.parquet")
    known.with_columns(user_id="other " + pl.col("user_id")).write_parquet(tmp_path / "others.parquet")
    before = (small_run / "collab" / "listener_factors.npy").read_bytes()
    results = evaluate.evaluate(small_run, (), 1, tmp_path / "others.parquet")
    assert list(results) == ["zero_shot"]
    for metrics in results["zero_shot"].values():
        check(metrics, OTHERS)
    half = results["zero_shot"]["history_half"]["ndcg_at_10"]
    assert half["baselines"]["EASE"] > 2 * half["baselines"]["popularity"]
    assert (small_run / "collab" / "listener_factors.npy").read_bytes() == before
    with pytest.raises(LeakError, match="expected no listener in both training and test, found 30"):
        evaluate.evaluate(small_run, (), 1, tmp_path / "known.parquet")
    with pytest.raises(InputError, match="zero_shot: expected a table of listening that the run has not seen"):
        evaluate.evaluate(small_run, ("zero_shot",), 1)


def test_run_that_splits_by_time_is_measured_on_what_is_heard_first_afterwards(small_run: Path) -> None:
    (metrics,) = evaluate.evaluate(small_run, ("temporal",), 1)["temporal"].values()
    baselines = {"collab", "LightFM", "popularity", "popularity_of_six_months", "ItemKNN", "EASE", "iALS", "BPR"}
    assert set(metrics) == {"ndcg_at_10", "hr_at_10", "recall_at_10"}
    for each in metrics.values():
        assert each["low"] <= each["value"] <= each["high"]
        assert set(each["better_by"]) == baselines


def test_current_track_is_apart_from_history_and_relevant_tracks() -> None:
    listener, row = np.repeat([0, 1, 2], [12, 3, 2]), np.concatenate([np.arange(12), np.arange(3), np.arange(2)])
    data = Interactions(["a", "b", "c"], listener, row, np.ones(17), np.zeros(17, np.int64))
    playing = next_track.make_queries(data, 0)
    queries = playing.queries
    assert queries.listeners == [0, 1]  # the third has no track after the current one
    for each in zip(queries.listeners, queries.histories, playing.current, queries.relevant, strict=True):
        number, history, current, relevant = each
        assert sorted([*history, current, *relevant]) == row[listener == number].tolist()
    for history, longer, current in zip(
        queries.histories, playing.as_history(5).histories, playing.current, strict=True
    ):
        assert longer.tolist() == [*history, *[current] * 5]


def test_history_and_relevant_tracks_are_all_tracks_of_a_listener() -> None:
    listener, row = np.repeat([0, 1, 2], [12, 6, 1]), np.concatenate([np.arange(12), np.arange(6), [3]])
    data = Interactions(["a", "b", "c"], listener, row, np.ones(19), np.zeros(19, np.int64))
    sizes = {"history_1": [1, 1], "history_5": [5, 5], "history_10": [10], "history_half": [6, 3]}
    for name, length in LENGTHS.items():
        queries = make_queries(data, length, 0)
        assert [len(each) for each in queries.histories] == sizes[name]
        for number, history, relevant in zip(queries.listeners, queries.histories, queries.relevant, strict=True):
            assert sorted([*history, *relevant]) == row[listener == number].tolist()


def test_baselines_rank_what_they_know() -> None:
    """Two groups of listeners with ten tracks each; track 20 has no listener, and is by the artist of track 0."""
    plays = np.zeros((60, 21), np.float32)
    rng = np.random.default_rng(0)
    for listener, own in enumerate(plays):
        own[10 * (listener % 2) + rng.choice(10, 6, replace=False)] = 1
    artists = np.array([*range(20), 0])
    baselines = Baselines(csr_matrix(plays), np.arange(21), artists, {"iALS": {"factors": 2}})
    scorers = baselines.scorers(0)
    scores = {name: scorer([np.array([0, 1, 2])])[0] for name, scorer in scorers.items()}
    for name in ("ItemKNN", "EASE", "iALS"):
        assert set(np.argsort(-scores[name])[:10]) <= set(range(10)), name
        assert scores[name][20] == 0
    assert scores["artist_popular"][20] == pytest.approx(np.sqrt(1 / 3) / np.sqrt(2))
    assert scores["popularity"].argsort()[::-1].tolist() == list(range(21))


def test_ties_have_the_mean_rank() -> None:
    data = Interactions(["a"], np.zeros(3, np.int64), np.arange(3), np.ones(3), np.zeros(3, np.int64))
    queries = make_queries(data, LENGTHS["history_1"], 0)
    (ranks,) = rank_all(lambda histories: np.zeros((len(histories), 11), np.float32), queries, 11)
    assert ranks.tolist() == [5.5, 5.5]
