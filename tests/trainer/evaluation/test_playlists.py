"""The protocol `playlists` on a small simulated run, and its baselines on data whose answer is known."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.sparse import csr_matrix

from musix_trainer import cli, recipe
from musix_trainer import run as runs
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation.protocols.playlists import LENGTHS, make_queries, rank_all
from musix_trainer.evaluation.protocols.playlists.baselines import Baselines
from tests.recipes import SMALL


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.toml").write_text(SMALL + 'folds = 2\nblend = "learned"\n')  # of the ranker
    runs.train(recipe.read(folder / "small.toml"), None).save(folder / "run")
    return folder / "run"


def test_each_length_of_the_history_has_intervals_and_paired_differences(small_run: Path) -> None:
    arguments = [str(small_run), "--protocol", "playlists", "--json", str(small_run.parent / "results.json")]
    assert CliRunner().invoke(cli.evaluate, arguments, catch_exceptions=False).exit_code == 0
    results = json.loads((small_run.parent / "results.json").read_bytes())["playlists"]
    assert set(results) == set(LENGTHS)
    for metrics in results.values():
        assert set(metrics) == {"ndcg_at_10", "r_precision", "hr_at_10", "recall_at_100"}
        for each in metrics.values():
            assert each["low"] <= each["value"] <= each["high"]
            names = {"popularity", "artist_popular", "ItemKNN", "EASE", "iALS", "EASE_artist_popular"}
            assert set(each["better_by"]) == names


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
