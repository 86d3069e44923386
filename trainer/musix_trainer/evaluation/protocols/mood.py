"""Mood protocols: moods that people heard, shares of the catalogue, a regression test. Intervals are over artists."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.tree import DecisionTreeClassifier

from musix_runtime.models.arrays import Floats, Rows
from musix_runtime.models.features import AUDIO
from musix_runtime.models.mood import MOODS
from musix_trainer.data import split
from musix_trainer.data.moods import PERCEIVED, Moods
from musix_trainer.evaluation import leakage
from musix_trainer.evaluation.bootstrap import ClusteredMetric
from musix_trainer.evaluation.protocols import EvaluationContext, MetricCollector, Results
from musix_trainer.models import mood
from musix_trainer.models.mood import MoodModel, perceived_shares
from musix_trainer.models.mood_targets import perceived_examples, rule, soft_rule

HELD_OUT = 0.2
DEPTH = 4  # of the baseline decision trees


def measure(context: EvaluationContext) -> dict[str, Results]:
    """Run mood/rule and mood/catalogue, and mood/perceived if the run has perceived moods."""
    results = {"mood/rule": _rule(context)}
    networks = _networks(context)
    if moods := context.full_run.moods:
        results["mood/perceived"] = _perceived(context, moods, networks)
    results["mood/catalogue"] = _catalogue(context, networks)
    return results


def _audio(context: EvaluationContext) -> Floats:
    return np.ascontiguousarray(context.full_run.catalogue.inputs[:, : len(AUDIO)])


def _clusters(context: EvaluationContext) -> NDArray[np.int64]:
    return context.full_run.catalogue.artist_numbers


def _networks(context: EvaluationContext) -> dict[str, MoodModel]:
    """Return the run's network, and one of the other teacher if the run has perceived moods."""
    run = context.full_run
    networks = {"network": run.mood}
    if run.moods:
        other = run.moods if run.quality["mood"]["teacher"] == "rule" else None
        name = "taught_by_perceived_moods" if other else "taught_by_rule"
        networks[name] = mood.train(_audio(context), run.recipe.mood, context.seed(0), other)[0]
    return networks


def _rule(context: EvaluationContext) -> Results:
    """Teach a network the rule on four fifths of the recordings, and test it on those of the others with a mood by it.

    A choice is right if it is one of the rule's moods. This is a regression test: it shows that the network reproduces
    a known rule, and says nothing about moods that people hear.
    """
    run, collector = context.full_run, MetricCollector()
    audio, clusters = _audio(context), _clusters(context)
    truth = rule(audio)
    rows = np.flatnonzero(truth.any(axis=1))
    for number in range(context.seeds):
        seed = context.seed(number)
        parts = split.assign(len(rows), 0, HELD_OUT, seed)
        train, test = rows[parts == split.TRAIN], rows[parts == split.TEST]
        others = np.setdiff1d(np.arange(len(audio)), test)
        leakage.check_recordings(run.catalogue, others, test)
        model, _ = mood.train(audio[others], run.recipe.mood, seed)
        tree = DecisionTreeClassifier(max_depth=DEPTH, random_state=seed).fit(audio[train], truth[train].argmax(axis=1))
        chosen = {
            "network": model.probabilities(audio[test]).argmax(axis=1),
            "decision_tree": tree.predict(audio[test]),
            "most_frequent_mood": np.full(len(test), truth[train].sum(axis=0).argmax()),
        }
        right = {name: truth[test, each] for name, each in chosen.items()}
        collector.add("agreement", {name: ClusteredMetric.mean(each, clusters[test]) for name, each in right.items()})
        labels = {name: np.where(right[name], each, truth[test].argmax(axis=1)) for name, each in chosen.items()}
        collector.add(
            "macro_f1",
            {name: ClusteredMetric.macro_f1(each, labels[name], clusters[test]) for name, each in chosen.items()},
        )
    return collector.results()


def _perceived(context: EvaluationContext, moods: Moods, networks: Mapping[str, MoodModel]) -> Results:
    """Measure the four perceived moods on the test split of the moods table, whose artists no model was taught.

    Focus is left out, and the others are scaled to a sum of 1. The tree and the gradient boosting are taught the
    examples of the network of perceived moods, with one mood drawn from each target.
    """
    run, collector = context.full_run, MetricCollector()
    audio = _audio(context)
    rows, hot = moods.test()
    truth, clusters = hot.argmax(axis=1), _clusters(context)[rows]
    taught = moods.row[moods.part != split.TEST]
    leakage.check_recordings(run.catalogue, taught, rows)
    leakage.check_artists(run.catalogue.primary_artists(), taught, rows)
    shares = {
        **{name: perceived_shares(model.probabilities(audio[rows])) for name, model in networks.items()},
        "rule": perceived_shares(soft_rule(audio)[rows]),
        **_taught_baselines(context, moods, audio, rows),
        "class_prior": np.tile(moods.shares[moods.part == split.TRAIN].mean(axis=0), (len(rows), 1)),
    }
    chosen = {name: each.argmax(axis=1) for name, each in shares.items()}
    right = {name: each == truth for name, each in chosen.items()}
    top = {name: each.max(axis=1) for name, each in shares.items()}
    collector.add("macro_f1", {name: ClusteredMetric.macro_f1(chosen[name], truth, clusters) for name in shares})
    collector.add("ece", {name: ClusteredMetric.calibration(top[name], right[name], clusters) for name in shares})
    collector.add("accuracy", {name: ClusteredMetric.mean(right[name], clusters) for name in shares})
    for i, label in enumerate(PERCEIVED):
        mask = truth == i
        if mask.any():
            recalls = {name: ClusteredMetric.mean(each[mask], clusters[mask]) for name, each in right.items()}
            collector.add(f"recall_{label}", recalls)
    return collector.results()


def _taught_baselines(context: EvaluationContext, moods: Moods, audio: Floats, rows: Rows) -> dict[str, Floats]:
    """Return the shares of `rows` by models of scikit-learn that were taught the same examples."""
    settings, seed = context.full_run.recipe.mood, context.seed(0)
    examples, _ = perceived_examples(audio, moods, settings.examples, settings.validation, seed)
    cumulative = perceived_shares(examples.targets).cumsum(axis=1)
    labels = (np.random.default_rng(seed).random((len(cumulative), 1)) > cumulative[:, :-1]).sum(axis=1)
    models = {
        "decision_tree": DecisionTreeClassifier(max_depth=DEPTH, random_state=seed),
        "gradient_boosting": HistGradientBoostingClassifier(learning_rate=0.05, max_iter=100, random_state=seed),
    }
    shares = {}
    for name, model in models.items():
        model.fit(audio[examples.rows], labels)
        shares[name] = np.zeros((len(rows), len(PERCEIVED)), np.float32)
        shares[name][:, model.classes_] = model.predict_proba(audio[rows])
    return shares


def _catalogue(context: EvaluationContext, networks: Mapping[str, MoodModel]) -> Results:
    """Measure the share of the catalogue's recordings whose likeliest mood is each of the five."""
    audio, clusters, collector = _audio(context), _clusters(context), MetricCollector()
    chosen = {name: model.probabilities(audio).argmax(axis=1) for name, model in networks.items()}
    chosen["rule"] = soft_rule(audio).argmax(axis=1)
    for i, label in enumerate(MOODS):
        shares = {name: ClusteredMetric.mean(each == i, clusters) for name, each in chosen.items()}
        collector.add(f"share_{label}", shares)
    return collector.results()
