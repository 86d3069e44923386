"""The whole evaluation, on the embedded data: what it measures, keeps and refuses."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from musix_exporter import export
from musix_runtime.errors import EvaluationError, InputError, TableError
from musix_trainer import cli, recipe
from musix_trainer import run as runs
from musix_trainer.data import split
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation import evaluate, report
from musix_trainer.evaluation.benchmark import Benchmark
from musix_trainer.evaluation.tuning import tune
from musix_trainer.run import Run

MIDDLE = """
name = "middle"
version = "1.0.0"
source = "synthetic"
[synthetic]
tracks = 1600
listeners = 400
[genre]
epochs = 20
n_estimators = 15
[mood]
epochs = 4
[collab]
epochs = 30
[ranker]
epochs = 10
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "middle.toml").write_text(MIDDLE)
    return runs.train(recipe.read(folder / "middle.toml"), None)


@pytest.fixture(scope="module")
def measured(made: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, measured by all protocols."""
    path = tmp_path_factory.mktemp("runs") / "middle"
    made.save(path)
    found = CliRunner().invoke(cli.evaluate, [str(path), "--json", str(path / "all.json")], catch_exceptions=False)
    assert found.exit_code == 0
    assert "| genre/known_artists | macro_f1 |" in found.stdout
    return path


def test_every_figure_has_an_interval_and_stands_beside_baselines(measured: Path) -> None:
    found = json.loads((measured / "all.json").read_bytes())
    assert {part: set(of) for part, of in found.items()} == {
        "catalogue": {"drift"},
        "genre": {"known_artists", "unseen_artists", "five_fold"},
        "mood": {"rule"},
        "collab": {"sampled_99", "sampled_99_popular", "full", "cold_listeners"},
        "hybrid": {"full", "cold_listeners", "tradeoff", "simulated_30"},
    }
    for of in found.values():
        for metrics in of.values():
            for each in metrics.values():
                assert each["low"] <= each["value"] + 1e-9
                assert each["value"] <= each["high"] + 1e-9
    drift = found["catalogue"]["drift"]
    assert drift["false_alarms_at_500"]["value"] < 0.05 < 0.5 < drift["false_alarms_at_50"]["value"]
    assert drift["caught_at_500_simulated"]["value"] > 0.9
    known = found["genre"]["known_artists"]["macro_f1"]
    assert known["low"] > known["baselines"]["audio_only_xgboost"] > known["baselines"]["class_prior"]
    full = found["collab"]["full"]["ndcg_at_10"]
    assert set(full["baselines"]) == {"popularity", "ItemKNN", "EASE", "iALS", "BPR", "lightfm_default_settings"}
    assert found["hybrid"]["full"]["ndcg_at_10"]["low"] > full["baselines"]["popularity"]
    assert {"LambdaRank", "fixed_blend", "collab_alone", "without_content"} < set(
        found["hybrid"]["full"]["ndcg_at_10"]["baselines"]
    )


def test_the_curves_lead_where_the_wishes_want(measured: Path) -> None:
    """All begin at the lists of the ranker's scores; a first time for all that come into question covers nearly all."""
    curves = json.loads((measured / "all.json").read_bytes())["hybrid"]["tradeoff"]

    def curve(metric: str, wish: str) -> list[float]:
        return [each["value"] for name, each in curves.items() if name.startswith(f"{metric}_{wish}")]

    for metric in ("ndcg_at_10", "coverage_at_10", "diversity"):
        assert curve(metric, "diversity_weight")[0] == curve(metric, "content_weight")[0]
    diverse, alike = curve("diversity", "diversity_weight"), curve("diversity", "content_weight")
    assert diverse == sorted(diverse)
    assert alike == sorted(alike, reverse=True)
    covered = curve("coverage_at_10", "novelty_bonus")
    assert covered == sorted(covered)
    assert covered[-1] > 1.5 * covered[0]


def test_the_card_of_the_training_says_the_same(measured: Path, made: Run) -> None:
    """Two ways to the same figures: the training's own, and the protocol's."""
    found = runs.evaluation(measured)
    assert found["genre"]["known_artists"]["macro_f1"]["value"] == pytest.approx(made.quality["genre"]["macro_f1"])
    assert found["genre"]["known_artists"]["ece"]["value"] == pytest.approx(made.quality["genre"]["ece"], rel=1e-5)
    for name in ("ndcg_at_10", "hr_at_10"):
        assert found["hybrid"]["full"][name]["value"] == pytest.approx(made.quality["hybrid"]["hybrid"][name])


def test_what_was_measured_is_not_measured_again(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(asked: object) -> None:
        raise AssertionError("measured again")

    before = evaluate.evaluate(measured, (), 1, None)
    monkeypatch.setattr(evaluate, "GROUPS", dict.fromkeys(evaluate.GROUPS, again))
    assert evaluate.evaluate(measured, (), 1, None) == before
    assert set(evaluate.evaluate(measured, ("collab/full", "genre"), 1, None)["collab"]) == {"full"}
    with pytest.raises(AssertionError, match="measured again"):
        evaluate.evaluate(measured, ("collab",), 2, None)  # over other seeds
    with pytest.raises(InputError, match=r"--protocol: expected one of catalogue, genre/.*, found colab"):
        evaluate.evaluate(measured, ("colab",), 1, None)


def test_an_export_takes_the_figures_into_the_quality_card(measured: Path, tmp_path: Path) -> None:
    bundle = export.export(Run.load(measured), tmp_path / "demo")
    card = bundle.manifest.quality["evaluation"]["collab"]["full"]["ndcg_at_10"]
    assert card["low"] < card["value"] < card["high"]
    assert "evaluation.collab.full.ndcg_at_10.low" in bundle.manifest.metrics()


def test_the_report_is_one_page_that_needs_nothing_else(measured: Path, demo_bundle: Path) -> None:
    page = report.write(measured, demo_bundle)
    assert page.count("<h2>") == page.count("</h2>") == 6
    for told in ("Simulated: tracks, listening, feedback", "unseen_artists", "Reliability", "recommend", "SHA-256"):
        assert told in page
    assert page.count('<img alt="" src="data:image/png;base64,') >= 12
    assert "http://" not in page
    assert "https://" not in page


def test_perceived_moods_are_joined_by_title_and_artist(measured: Path, made: Run, tmp_path: Path) -> None:
    rng, frame = np.random.default_rng(0), made.catalogue.frame
    valence = made.catalogue.inputs[:, 9] - 0.5
    table = pl.DataFrame(
        {
            "artist_name": [each.split(";")[0].upper() for each in frame["artists"]],
            "track_name": frame["track_name"],
            "valence": valence,
            "arousal": made.catalogue.inputs[:, 1] - 0.5,
            "split": rng.choice(["train", "test"], frame.height),
        }
    )
    table.write_parquet(tmp_path / "perceived.parquet")
    found = evaluate.evaluate(measured, ("mood",), 1, tmp_path / "perceived.parquet")["mood"]["perceived"]
    planted = found["accuracy"]
    assert planted["baselines"]["perceived_mood_tree"] > 0.95  # two cuts say it all
    assert planted["baselines"]["perceived_mood_tree"] > planted["value"]
    table.head(20).write_parquet(tmp_path / "few.parquet")
    with pytest.raises(TableError, match="expected at least 50 songs of the catalogue, found"):
        evaluate.evaluate(measured, ("mood",), 1, tmp_path / "few.parquet")


LASTFM = """
name = "fans"
version = "1.0.0"
source = "lastfm"
[tables]
listening = "plays.parquet"
[split]
by = "leave_one_out"
[collab]
loss = "warp"
learning_schedule = "adagrad"
epochs = 10
no_components = 8
"""


@pytest.fixture
def fans(tmp_path: Path) -> Path:
    """A recipe beside a table of 80 listeners, at home in one of 4 groups of 12 artists; one has one fan."""
    rng = np.random.default_rng(0)
    pairs = [
        (f"u{user}", f"a{12 * (user % 4) + artist}", 5)
        for user in range(80)
        for artist in rng.choice(12, 8, replace=False)
    ]
    table = pl.DataFrame([*pairs, ("u0", "lonely", 9)], schema=["userID", "artistID", "weight"], orient="row")
    table.write_parquet(tmp_path / "plays.parquet")
    (tmp_path / "fans.toml").write_text(LASTFM)
    return tmp_path


def test_a_benchmark_is_trained_measured_and_tuned(fans: Path) -> None:
    ask = CliRunner()
    ask.invoke(cli.train, [str(fans / "fans.toml"), "--data", str(fans), "--out", str(fans)], catch_exceptions=False)
    path = fans / "runs" / "fans-1.0.0"
    benchmark = Benchmark.load(path)
    assert len(np.unique(benchmark.interactions.row)) == 48  # the lonely one is not in the 5-core
    with pytest.raises(InputError, match="expected a run of all parts, found one of listening alone"):
        Run.load(path)
    found = evaluate.evaluate(path, ("collab",), 2, None)["collab"]
    assert found["full"]["hr_at_10"]["low"] > 0.9  # of 12 artists at home, 7 are heard, and 10 are proposed
    assert found["full"]["hr_at_10"]["value"] > found["full"]["hr_at_10"]["baselines"]["popularity"]

    options = ["--data", str(fans), "--out", str(fans), "--trials", "2", "--write", str(fans / "tuned.toml")]
    told = [ask.invoke(cli.tune, [str(fans / "fans.toml"), *options], catch_exceptions=False) for _ in range(2)]
    assert "tuning EASE: trials: 2/2" in told[0].stderr
    assert "tuning EASE: trials" not in told[1].stderr  # both trials were kept
    tuned = recipe.read(fans / "tuned.toml").recipe
    assert tuned.tuned.trials == {"collab": 2, "ItemKNN": 2, "EASE": 2, "iALS": 2, "BPR": 2}
    assert len(tuned.tuned.study) == 64
    assert tuned.tuned.baselines["EASE"]["penalty"] > 0

    poor = (fans / "tuned.toml").read_text().replace("EASE = 2", "EASE = 1")
    (fans / "poor.toml").write_text(poor)
    ask.invoke(cli.train, [str(fans / "poor.toml"), "--data", str(fans), "--out", str(fans)], catch_exceptions=False)
    with pytest.raises(
        EvaluationError, match="expected every baseline to have the 2 trials that collab had, found EASE"
    ):
        evaluate.evaluate(path, ("collab",), 1, None)


def test_a_benchmark_needs_its_table_and_has_no_genre(fans: Path) -> None:
    file = recipe.read(fans / "fans.toml")
    with pytest.raises(InputError, match="name its folder with --data"):
        tune(file, None, "collab", 1, fans)
    with pytest.raises(InputError, match="expected a recipe with tracks to tune genre, found none"):
        tune(file, fans, "genre", 1, fans)
    with pytest.raises(InputError, match="expected a recipe with tracks, found one of listening alone"):
        runs.train(file, fans)


def test_leave_one_out_takes_one_entry_of_each_listener() -> None:
    listener = np.repeat([0, 1, 2, 3], [1, 2, 3, 10])
    heard = Interactions(list("abcd"), listener, np.arange(16), np.ones(16), np.zeros(16, np.int64))
    parts = split.split_interactions(heard, [], recipe.Split(by="leave_one_out"), 0)
    assert [np.bincount(parts[listener == i], minlength=3).tolist() for i in range(4)] == [
        [1, 0, 0], [1, 0, 1], [1, 1, 1], [8, 1, 1],
    ]  # fmt: skip
