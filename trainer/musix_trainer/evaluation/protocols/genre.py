"""Genre protocols: families of held-out recordings.

A choice is right if it is among the recording's labels. Intervals are over primary artists.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from musix_runtime.models.arrays import Floats, Rows
from musix_runtime.models.features import AUDIO
from musix_trainer import progress, recipe
from musix_trainer.data import split
from musix_trainer.evaluation import leakage, metrics
from musix_trainer.evaluation.bootstrap import ClusteredMetric
from musix_trainer.evaluation.protocols import EvaluationContext, MetricCollector, Results
from musix_trainer.models.genre.base_models import classifier
from musix_trainer.models.genre.calibration import BASE_MODELS
from musix_trainer.models.genre.features import EvidenceKind
from musix_trainer.models.genre.model import GenreModel
from musix_trainer.models.genre.quality import artist_lookup
from musix_trainer.models.genre.training import fit
from musix_trainer.run import Run

FOLDS = 5
OURS = "ensemble"
HITS = (1, 3, 5)
Predictions = dict[str, Floats]  # confidence (n, families) by model


def known_artists(context: EvaluationContext) -> dict[str, Results]:
    """Measure a random split of recordings, with the recipe's shares: most artists of the test part are in training."""
    run, collector = context.full_run, MetricCollector()
    settings = run.recipe.genre
    for number in range(context.seeds):
        seed = context.seed(number)
        parts = split.assign(len(run.catalogue), settings.validation, settings.test, seed)
        model = fit(run.catalogue, parts, settings, seed) if number else run.genre
        _measure(run, model, parts, seed, collector)
    return {"genre/known_artists": collector.results()}


def unseen_artists(context: EvaluationContext) -> dict[str, Results]:
    """Measure a random split of primary artists, with the recipe's shares: no test artist is in training."""
    run, collector = context.full_run, MetricCollector()
    settings, artists = run.recipe.genre, run.catalogue.primary_artists()
    codes = np.unique(artists, return_inverse=True)[1]
    for number in range(context.seeds):
        seed = context.seed(number)
        parts = split.assign(int(codes.max()) + 1, settings.validation, settings.test, seed)[codes]
        leakage.check_artists(artists, np.flatnonzero(parts != split.TEST), np.flatnonzero(parts == split.TEST))
        _measure(run, fit(run.catalogue, parts, settings, seed), parts, seed, collector)
    return {"genre/unseen_artists": collector.results()}


def five_fold(context: EvaluationContext) -> dict[str, Results]:
    """Measure by five-fold cross-validation, in which each recording is tested once."""
    run, collector = context.full_run, MetricCollector()
    catalogue, settings = run.catalogue, run.recipe.genre
    folds = np.random.default_rng(context.seed(0)).permutation(len(catalogue)) % FOLDS
    clusters = np.unique(catalogue.primary_artists(), return_inverse=True)[1]
    lookups = np.empty(catalogue.families.shape, np.float32)
    confidence = np.empty(catalogue.families.shape, np.float32)
    for fold in range(FOLDS):
        progress.say(f"genre: fold {fold + 1} of {FOLDS}")
        test = np.flatnonzero(folds == fold)
        others = np.flatnonzero(folds != fold)
        parts = np.full(len(catalogue), split.TEST, np.int8)
        parts[others] = split.assign(len(others), settings.validation / (1 - 1 / FOLDS), 0, context.seed(fold))
        leakage.check_recordings(catalogue, others, test)
        model = fit(catalogue, parts, settings, context.seed(fold))
        confidence[test] = model.confidence(catalogue.inputs[test], *catalogue.texts(test))
        lookups[test] = artist_lookup(catalogue.primary_artists(), catalogue.families, others, test)
    _add_metrics(collector, {OURS: confidence, "artist_lookup": lookups}, catalogue.families, clusters)
    return {"genre/five_fold": collector.results()}


def _measure(run: Run, model: GenreModel, parts: NDArray[np.int8], seed: int, collector: MetricCollector) -> None:
    """Add the metrics of one split, of all test rows and of those with known and unknown artists."""
    catalogue = run.catalogue
    train, seen, test = (
        np.flatnonzero(mask) for mask in (parts == split.TRAIN, parts != split.TEST, parts == split.TEST)
    )
    leakage.check_recordings(catalogue, seen, test)
    truth = catalogue.families[test]
    base_scores, kind = model.scores(catalogue.inputs[test], *catalogue.texts(test))
    scores, known = dict(zip(BASE_MODELS, base_scores, strict=True)), kind == EvidenceKind.KNOWN

    def combine(*names: str) -> Floats:
        selected = [each if name in names else np.zeros_like(each) for name, each in scores.items()]
        return model.combine(selected, kind)

    predictions = {
        OURS: combine(*scores),
        "artist_lookup": artist_lookup(catalogue.primary_artists(), catalogue.families, train, test),
        **{f"{name}_alone": each for name, each in scores.items()},  # the raw scores, without the fitted biases
        **{f"without_{name}": combine(*(each for each in scores if each != name)) for name in scores},
        **_baselines(catalogue.inputs, catalogue.families, train, test, run.recipe.genre, seed),
    }
    clusters = np.unique(catalogue.primary_artists(), return_inverse=True)[1][test]
    _add_metrics(collector, predictions, truth, clusters)
    for label, mask in (("known_artists", known), ("unknown_artists", ~known)):
        if mask.any() and not mask.all():
            by_model = {name: _macro_f1(each[mask], truth[mask], clusters[mask]) for name, each in predictions.items()}
            collector.add(f"macro_f1_{label}", by_model)


def _baselines(
    inputs: Floats, families: metrics.Truth, train: Rows, test: Rows, settings: recipe.Genre, seed: int
) -> Predictions:
    """Return the predictions of baselines that see no artist.

    They are logistic regression over all inputs, XGBoost over the 12 audio features, and the share of each family.
    """
    rows, labels = np.nonzero(families[train])
    weight = 1 / families[train].sum(axis=1)[rows]
    progress.say("genre: logistic regression, XGBoost over audio alone")
    logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    logistic.fit(inputs[train][rows], labels, logisticregression__sample_weight=weight)
    audio = np.ascontiguousarray(inputs[:, : len(AUDIO)])
    trees = classifier(settings, seed)
    trees.fit(audio[train][rows], labels, sample_weight=weight)
    return {
        "logistic_regression": logistic.predict_proba(inputs[test]),
        "audio_only_xgboost": trees.predict_proba(audio[test]),
        "class_prior": np.tile(families[train].mean(axis=0), (len(test), 1)),
    }


def _add_metrics(collector: MetricCollector, predictions: Predictions, truth: metrics.Truth, clusters: Rows) -> None:
    collector.add("macro_f1", _map(predictions, lambda c: _macro_f1(c, truth, clusters)))
    for k in HITS:
        hits = {name: np.asarray(_top(each, truth, k).any(axis=1)) for name, each in predictions.items()}
        collector.add(f"hit_at_{k}", {name: ClusteredMetric.mean(each, clusters) for name, each in hits.items()})
    collector.add(
        "precision_at_5", _map(predictions, lambda c: ClusteredMetric.mean(_top(c, truth, 5).mean(axis=1), clusters))
    )
    collector.add("lrap", _map(predictions, lambda c: ClusteredMetric.mean(_label_ranking(c, truth), clusters)))
    collector.add("ece", _map({OURS: predictions[OURS]}, lambda c: _calibration(c, truth, clusters)))


def _map(predictions: Predictions, metric: Callable[[Floats], ClusteredMetric]) -> dict[str, ClusteredMetric]:
    return {name: metric(np.asarray(confidence)) for name, confidence in predictions.items()}


def _macro_f1(confidence: Floats, truth: metrics.Truth, clusters: Rows) -> ClusteredMetric:
    chosen = confidence.argmax(axis=1)
    right = truth[np.arange(len(truth)), chosen]
    return ClusteredMetric.macro_f1(chosen, np.where(right, chosen, truth.argmax(axis=1)), clusters)


def _top(confidence: Floats, truth: metrics.Truth, k: int) -> NDArray[Any]:
    best = np.argsort(-confidence, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(truth, best, axis=1)


def _label_ranking(confidence: Floats, truth: metrics.Truth) -> NDArray[np.float64]:
    """Return the label ranking average precision of each row, as scikit-learn does: ties count as ranked above."""
    above = confidence[:, None, :] >= confidence[:, :, None]  # [row, label, other]
    ranks = above.sum(axis=2)
    right = (above & truth[:, None, :]).sum(axis=2)
    return np.asarray(np.where(truth, right / ranks, 0).sum(axis=1) / truth.sum(axis=1), np.float64)


def _calibration(confidence: Floats, truth: metrics.Truth, clusters: Rows) -> ClusteredMetric:
    right: NDArray[Any] = truth[np.arange(len(truth)), confidence.argmax(axis=1)]
    return ClusteredMetric.calibration(confidence.max(axis=1), right, clusters)
