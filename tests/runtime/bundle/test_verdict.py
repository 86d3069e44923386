"""Figures of a quality card in words: comparisons with baselines, and the verdict."""

from typing import Any

import msgspec
import pytest

from musix_runtime.bundle.manifest import SourceInfo
from musix_runtime.inspection import verdict
from musix_runtime.inspection.figures import Figure, compare, headlines, in_words, protocols


def figure(value: float, rivals: dict[str, tuple[float, float, float]]) -> dict[str, Any]:
    """Return a figure whose rivals have a value, and the interval of the difference to it."""
    return {
        "value": value,
        "low": value - 0.01,
        "high": value + 0.01,
        "baselines": {name: rival for name, (rival, _, _) in rivals.items()},
        "better_by": {
            name: {"value": value - rival, "low": low, "high": high} for name, (rival, low, high) in rivals.items()
        },
        "seeds": 1,
    }


def card(**protocols: dict[str, Any]) -> dict[str, Any]:
    """Return a quality card of a run of all parts, with results for `part__protocol`."""
    evaluation: dict[str, Any] = {}
    for name, metrics in protocols.items():
        part, _, protocol = name.partition("__")
        evaluation.setdefault(part, {})[protocol] = metrics
    return {"genre": {"macro_f1": 0.9}, "hybrid": {}, "mood": {"teacher": "perceived"}, "evaluation": evaluation}


REAL = {"tracks": SourceInfo("0" * 64, 1000, False, {}), "listening": SourceInfo("1" * 64, 50, False, {})}


@pytest.mark.parametrize(
    ("metric", "difference", "outcome"),
    [
        ("macro_f1", (0.4, 0.05, 0.15), "better"),
        ("macro_f1", (0.6, -0.15, -0.05), "worse"),
        ("macro_f1", (0.4, -0.01, 0.2), "equal"),
        ("ece", (0.6, -0.15, -0.05), "better"),
        ("ece_audio_only", (0.4, 0.05, 0.15), "worse"),
    ],
)
def test_difference_counts_if_its_interval_excludes_0(
    metric: str, difference: tuple[float, float, float], outcome: str
) -> None:
    compared = compare(metric, msgspec.convert(figure(0.5, {"other": difference}), Figure))
    assert compared is not None
    assert compared.outcome == outcome
    assert ("excludes 0" in compared.text()) is (outcome != "equal")


def test_best_baseline_is_no_ablation_and_figures_without_interval_are_no_proof() -> None:
    compared = compare("ndcg_at_10", Figure(0.5, baselines={"without_content": 0.9, "EASE": 0.4, "popularity": 0.1}))
    assert compared is not None
    assert (compared.outcome, compared.baseline) == ("unknown", "EASE")
    assert "above the best baseline, EASE (0.400); without an interval" in compared.text()
    assert compare("share_happy", Figure(0.5, baselines={"rule": 0.4})) is None
    assert compare("macro_f1", Figure(0.5)) is None
    assert compare("ece", Figure(0.5, baselines={"class_prior": 0.01})) is None  # any constant is calibrated
    assert in_words("ndcg_at_10_long_tail") == "NDCG@10 long tail"


def test_protocol_without_known_metrics_shows_its_first_ones() -> None:
    """A protocol that this version does not know is shown like the others."""
    found = protocols({"evaluation": {"lists": {"": {f"novel_{i}": figure(i, {}) for i in range(9)}}}})
    assert list(headlines(found["lists"])) == [f"novel_{i}" for i in range(6)]
    names = ("hr_at_10_history_1", "ndcg_at_10_history_1", "ndcg_at_10_history_3", "gini")
    assert list(headlines(dict.fromkeys(names, Figure(0)))) == [*names[1:3], names[0]]


def test_verdict_has_five_sentences_and_names_the_worst_and_the_missing() -> None:
    sentences = verdict.verdict(
        card(
            genre__known_artists={"macro_f1": figure(0.9, {"xgboost": (0.8, 0.05, 0.15)})},
            genre__unseen_artists={
                "macro_f1": figure(0.6, {"xgboost": (0.5, 0.05, 0.15)}),
                "macro_f1_audio_only": figure(0.3, {"xgboost": (0.4, -0.2, -0.05)}),
                "ece_audio_only": figure(0.3, {"xgboost": (0.1, 0.1, 0.3)}),  # which is no accuracy
            },
            mood__rule={"macro_f1": figure(0.1, {"decision_tree": (0.9, -0.9, -0.7)})},  # which is a regression test
            hybrid__full={"ndcg_at_10": figure(0.2, {"EASE": (0.19, -0.01, 0.03)})},
        ),
        REAL,
    )
    assert len(sentences) == 5
    data, genre, mood, lists, worst = sentences
    assert data == "The data is real (rows: tracks 1,000, listening 50)."
    assert "better than the best baseline, XGBoost (0.800): +0.100, 95 % interval +0.050 to +0.150, excludes 0" in genre
    assert "For artists that are not in training: macro-F1 0.600" in genre
    assert mood == "Mood as people hear it: not measured."
    assert "not measurably different from the best baseline, EASE (0.190)" in lists
    assert (
        "1 of 4 figures of accuracy, most of all macro-F1 audio only of genre/unseen_artists, 0.300 beside 0.400"
        in worst
    )
    assert worst.endswith("Not measured: moods as people hear them, listeners with a short history.")


def test_verdict_on_simulated_data_and_without_evaluation() -> None:
    simulated = {name: msgspec.structs.replace(source, simulated=True) for name, source in REAL.items()}
    quality = {**card(), "mood": {"teacher": "rule", "rule_agreement": 0.99}}
    data, genre, mood, lists, worst = verdict.verdict(quality, simulated)
    assert "simulated (tracks, listening): no figure here applies to real listeners" in data
    assert "measured beside no baseline" in genre
    assert mood.startswith("Mood: repeats a rule over audio features in 99.0% of the tracks; whether people hear")
    assert lists == "Recommendations: not measured."
    assert "No figure has an interval yet" in worst
    assert "not labels from listeners" in " ".join(verdict.limits(quality, simulated))


def test_limits_name_a_mood_of_most_tracks() -> None:
    quality = {**card(), "catalog": {"mood_shares": {"happy": 0.39, "sad": 0.61}, "largest_family_share": 0.9}}
    moods = [sentence for sentence in verdict.limits(quality, REAL) if "have the mood" in sentence]
    assert moods == ["61% of the tracks have the mood sad: it tells few of them apart."]
