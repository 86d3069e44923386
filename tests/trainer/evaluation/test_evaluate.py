"""Evaluation of a small simulated run by all protocols: results, stored results, refusals, tuning."""

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from musix_exporter import export
from musix_runtime.bundle.reader import Bundle
from musix_runtime.errors import EvaluationError, InputError
from musix_runtime.inspection.model_card import model_card
from musix_trainer import cli, pipeline, recipe
from musix_trainer.data import split
from musix_trainer.data.interactions import Interactions
from musix_trainer.data.moods import read_moods
from musix_trainer.data.tables import Table
from musix_trainer.evaluation import evaluate, report
from musix_trainer.evaluation.benchmark import Benchmark
from musix_trainer.evaluation.protocols import hybrid
from musix_trainer.evaluation.protocols.hybrid.rankings import _select
from musix_trainer.evaluation.tuning import tune
from musix_trainer.models.genre.evidence import CELLS
from musix_trainer.run import Run
from musix_trainer.runs import evaluation
from tests.recipes import moods_table

SMALL = """
name = "small"
version = "1.0.0"
source = "synthetic"
[synthetic]
tracks = 1000
listeners = 120
[split]
test = 0.3
[genre]
epochs = 5
learning_rate = 0.3
n_estimators = 10
max_depth = 3
max_bin = 16
[mood]
epochs = 4
[collab]
epochs = 30
[ranker]
epochs = 10
"""


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "small.toml").write_text(SMALL)
    return pipeline.train(recipe.read(folder / "small.toml"), None)


@pytest.fixture(scope="module")
def measured(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was measured by all protocols."""
    path = tmp_path_factory.mktemp("runs") / "small"
    small_run.save(path)
    result = CliRunner().invoke(cli.evaluate, [str(path), "--json", str(path / "all.json")], catch_exceptions=False)
    assert result.exit_code == 0
    assert "| genre/known_artists | macro_f1 |" in result.stdout
    return path


def test_every_metric_has_an_interval_and_baselines(measured: Path) -> None:
    results = json.loads((measured / "all.json").read_bytes())
    assert {part: set(protocols) for part, protocols in results.items()} == {
        "catalogue": {"drift"},
        "genre": {"known_artists", "unseen_artists", "five_fold"},
        "mood": {"rule", "catalogue"},
        "collab": {"sampled_99", "sampled_99_popular", "full", "cold_listeners"},
        "hybrid": {"full", "cold_listeners", "tradeoff", "simulated_30"},
        "lists": {"full", "current_track"},
    }
    for protocols in results.values():
        for metrics in protocols.values():
            for each in metrics.values():
                assert each["low"] <= each["value"] + 1e-9
                assert each["value"] <= each["high"] + 1e-9
    drift = results["catalogue"]["drift"]
    assert drift["false_alarms_at_500"]["value"] < 0.05 < 0.5 < drift["false_alarms_at_50"]["value"]
    assert drift["caught_at_500_simulated"]["value"] > 0.9
    known = results["genre"]["known_artists"]["macro_f1"]
    assert known["low"] > known["baselines"]["class_prior"]
    for protocol in ("known_artists", "unseen_artists"):
        for cell, each in CELLS.items():
            name = "macro_f1" if cell == "all_inputs" else f"macro_f1_{cell}"
            baselines = results["genre"][protocol][name]["baselines"]
            assert {"xgboost", "logistic_regression", "class_prior"} <= set(baselines)
            assert ("artist_lookup_xgboost" in baselines) is each.artists
    full = results["collab"]["full"]["ndcg_at_10"]
    assert set(full["baselines"]) == {"popularity", "ItemKNN", "EASE", "iALS", "BPR", "lightfm_default_settings"}
    assert results["hybrid"]["full"]["ndcg_at_10"]["low"] > full["baselines"]["popularity"]
    assert {"LambdaRank", "fixed_blend", "collab_alone", "without_content"} < set(
        results["hybrid"]["full"]["ndcg_at_10"]["baselines"]
    )


def test_tradeoff_curves_improve_the_weighted_goal(measured: Path) -> None:
    """All curves start at the lists by score alone; a novelty bonus halves the share that is in no list."""
    curves = json.loads((measured / "all.json").read_bytes())["hybrid"]["tradeoff"]

    def curve(metric: str, setting: str) -> list[float]:
        return [each["value"] for name, each in curves.items() if name.startswith(f"{metric}_{setting}")]

    for metric in ("ndcg_at_10", "coverage_of_heard_at_10", "diversity"):
        assert curve(metric, "diversity_weight")[0] == curve(metric, "content_weight")[0]
    diverse, similar = curve("diversity", "diversity_weight"), curve("diversity", "content_weight")
    assert diverse == sorted(diverse)
    assert similar == sorted(similar, reverse=True)
    covered = curve("coverage_of_heard_at_10", "novelty_bonus")
    assert covered == sorted(covered)
    assert 1 - covered[-1] < (1 - covered[0]) / 2


def test_cold_listeners_are_not_proposed_their_own_tracks(small_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their other training tracks, of which the recommender is not told, could only be misses."""
    listeners = range(0, 100, 5)
    proposed: list[dict[str, list[np.ndarray]]] = []
    monkeypatch.setattr(hybrid, "add_accuracy", lambda collector, lists, *rest: proposed.append(lists))
    ranking = partial(_select, small_run.ranker.runtime())
    hybrid._cold_start(small_run, {number: {0} for number in listeners}, ranking)
    heard = small_run.collab.runtime().history
    for lists in proposed:
        for rows, number in zip(lists["hybrid"], listeners, strict=True):
            assert len(rows) == 10
            assert not np.isin(rows, heard(number)).any()


def test_protocols_equal_the_quality_card(measured: Path, small_run: Run) -> None:
    """The training and the protocols measure the same metrics in different ways."""
    results = evaluation(measured)
    assert results["genre"]["known_artists"]["macro_f1"]["value"] == pytest.approx(
        small_run.quality["genre"]["macro_f1"]
    )
    assert results["genre"]["known_artists"]["ece"]["value"] == pytest.approx(
        small_run.quality["genre"]["ece"], rel=1e-5
    )
    for cell, figures in small_run.quality["genre"]["all_artists"].items():
        if cell in CELLS and cell != "all_inputs":
            for name, value in figures.items():
                measured_value = results["genre"]["known_artists"][f"{name}_{cell}"]["value"]
                assert measured_value == pytest.approx(value, rel=1e-4), (cell, name)
    for name in ("ndcg_at_10", "hr_at_10"):
        assert results["hybrid"]["full"][name]["value"] == pytest.approx(small_run.quality["hybrid"]["hybrid"][name])


def test_stored_results_are_reused(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(context: object) -> None:
        raise AssertionError("measured again")

    before = evaluate.evaluate(measured, (), 1)
    monkeypatch.setattr(evaluate, "GROUPS", dict.fromkeys(evaluate.GROUPS, fail))
    assert evaluate.evaluate(measured, (), 1) == before
    assert set(evaluate.evaluate(measured, ("collab/full", "genre"), 1)["collab"]) == {"full"}
    with pytest.raises(AssertionError, match="measured again"):
        evaluate.evaluate(measured, ("collab",), 2)  # over other seeds
    with pytest.raises(InputError, match=r"--protocol: expected one of catalogue, genre/.*, found colab"):
        evaluate.evaluate(measured, ("colab",), 1)


@pytest.fixture(scope="module")
def measured_bundle(measured: Path) -> Bundle:
    return export.export(Run.load(measured), measured.with_name("bundle"))


def test_export_adds_the_results_to_the_quality_card(measured_bundle: Bundle) -> None:
    card = measured_bundle.manifest.quality["evaluation"]["collab"]["full"]["ndcg_at_10"]
    assert card["low"] < card["value"] < card["high"]
    assert "evaluation.collab.full.ndcg_at_10.low" in measured_bundle.manifest.metrics()
    lines = model_card(measured_bundle.manifest, measured_bundle.digest)
    assert {"### collab/full", "### genre/unseen_artists", "### hybrid/full"} <= set(lines)


class Elements(HTMLParser):
    """Counts the elements of a page, of which none may be left open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: Counter[str] = Counter()
        self.descriptions: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] += 1
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "img":
            self.descriptions.append(dict(attrs)["alt"])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_is_a_self_contained_page(measured: Path, measured_bundle: Bundle, tmp_path: Path) -> None:
    """Results of a protocol that the report does not know are shown like the others."""
    run = Path(shutil.copytree(measured, tmp_path / "small"))
    stored = json.loads((run / "evaluation" / "collab.json").read_bytes())
    figure = {"value": 0.123, "low": 0.1, "high": 0.2, "baselines": {"EASE": 0.3}, "better_by": {}}
    results = {"lists/<new>": {"ndcg_at_10": figure, "novel": figure}}
    (run / "evaluation" / "lists.json").write_text(json.dumps({"key": stored["key"], "results": results}))
    page = report.write(run, measured_bundle.path)
    elements = Elements()
    elements.feed(page)
    assert elements.open == []
    assert elements.counts["h2"] == 10
    assert elements.counts["img"] >= 12
    assert all(elements.descriptions)
    for text in (
        "simulated (tracks, listening, feedback): no figure here applies",
        "Worse than the best baseline, by an interval that excludes 0:",
        "<b>genre/unseen_artists</b> macro-F1 ",
        "<b>lists/&lt;new&gt;</b> NDCG@10 0.123 (0.100 to 0.200)",
        "Listener 10, ",
        "related artists",
        "; because of ",
        "Reliability",
        "SHA-256",
        '<meta name="viewport"',
    ):
        assert text in page
    for text in ("http://", "https://", "<script", "<link"):
        assert text not in page


def test_perceived_moods_compare_both_teachers(small_run: Run, tmp_path: Path) -> None:
    """The planted moods are two thresholds, which the rule does not know."""
    moods = read_moods(Table(moods_table(small_run.catalogue), "moods", ""), small_run.catalogue)
    replace(small_run, moods=moods).save(tmp_path / "small")
    results = evaluate.evaluate(tmp_path / "small", ("mood",), 1)["mood"]
    f1, ece = (results["perceived"][name] for name in ("macro_f1", "ece"))
    names = ("taught_by_perceived_moods", "rule", "decision_tree", "gradient_boosting", "class_prior")
    assert tuple(f1["baselines"]) == tuple(ece["baselines"]) == names
    assert f1["baselines"]["decision_tree"] > 0.8
    assert f1["baselines"]["taught_by_perceived_moods"] > 0.6 > f1["value"]
    assert sum(each["value"] for each in results["catalogue"].values()) == pytest.approx(1)
    assert set(results["catalogue"]["share_sad"]["baselines"]) == {"taught_by_perceived_moods", "rule"}


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
    """Return a folder with a recipe, and a table of 80 listeners in 4 groups of 12 artists; one artist has one fan."""
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


def test_benchmark_is_trained_measured_and_tuned(fans: Path) -> None:
    runner = CliRunner()
    runner.invoke(cli.train, [str(fans / "fans.toml"), "--data", str(fans), "--out", str(fans)], catch_exceptions=False)
    path = fans / "runs" / "fans-1.0.0"
    benchmark = Benchmark.load(path)
    assert len(np.unique(benchmark.interactions.row)) == 48  # the artist with one fan is not in the 5-core
    with pytest.raises(InputError, match="expected a run of all parts, found one of interactions alone"):
        Run.load(path)
    results = evaluate.evaluate(path, ("collab",), 2)["collab"]
    assert (
        results["full"]["hr_at_10"]["low"] > 0.9
    )  # 7 of the group's 12 artists are in the history, 10 are recommended
    assert results["full"]["hr_at_10"]["value"] > results["full"]["hr_at_10"]["baselines"]["popularity"]

    assert "Recommendations by listening alone: NDCG@10" in report.write(path)

    options = ["--data", str(fans), "--out", str(fans), "--trials", "2", "--write", str(fans / "tuned.toml")]
    outputs = [runner.invoke(cli.tune, [str(fans / "fans.toml"), *options], catch_exceptions=False) for _ in range(2)]
    assert "tuning EASE: trials: 2/2" in outputs[0].stderr
    assert "tuning EASE: trials" not in outputs[1].stderr  # both trials were stored
    assert re.search(r"^collab - iALS: [-+]0\.\d{4} \([-+]\d\.\d{4} to [-+]\d\.\d{4}\)$", outputs[1].stderr, re.M)
    tuned = recipe.read(fans / "tuned.toml").recipe
    assert tuned.tuned.trials == {"collab": 2, "ItemKNN": 2, "EASE": 2, "iALS": 2, "BPR": 2}
    assert len(tuned.tuned.study) == 64
    assert tuned.tuned.baselines["EASE"]["penalty"] > 0

    fewer = (fans / "tuned.toml").read_text().replace("EASE = 2", "EASE = 1")
    (fans / "fewer.toml").write_text(fewer)
    options = [str(fans / "fewer.toml"), "--data", str(fans), "--out", str(fans), "--replace"]
    runner.invoke(cli.train, options, catch_exceptions=False)
    with pytest.raises(
        EvaluationError, match="expected every baseline to have the 2 trials that collab had, found EASE"
    ):
        evaluate.evaluate(path, ("collab",), 1)


def test_benchmark_requires_its_table_and_cannot_tune_genre(fans: Path) -> None:
    file = recipe.read(fans / "fans.toml")
    with pytest.raises(InputError, match="pass its folder with --data"):
        tune(file, None, "collab", 1, fans)
    with pytest.raises(InputError, match="expected a recipe with tracks to tune genre, found none"):
        tune(file, fans, "genre", 1, fans)
    with pytest.raises(InputError, match="expected a recipe with tracks, found one of interactions alone"):
        pipeline.train(file, fans)


def test_leave_one_out_holds_out_one_entry_of_each_listener() -> None:
    listener = np.repeat([0, 1, 2, 3], [1, 2, 3, 10])
    interactions = Interactions(list("abcd"), listener, np.arange(16), np.ones(16), np.zeros(16, np.int64))
    parts = split.split_interactions(interactions, [], recipe.Split(by="leave_one_out"), 0)
    assert [np.bincount(parts[listener == i], minlength=3).tolist() for i in range(4)] == [
        [1, 0, 0], [1, 0, 1], [1, 1, 1], [8, 1, 1],
    ]  # fmt: skip
