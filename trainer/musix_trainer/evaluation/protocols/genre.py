"""Genre: families of held-out recordings. A choice is right when it is among the recording's labels; intervals are over
primary artists."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

from musix_runtime.models.arrays import Floats, Rows
from musix_runtime.models.features import AUDIO
from musix_trainer import progress, recipe
from musix_trainer.data import split
from musix_trainer.evaluation import leakage, metrics
from musix_trainer.evaluation.bootstrap import ClusteredMetric
from musix_trainer.evaluation.protocols import EvaluationContext, MetricCollector, Results
from musix_trainer.models.genre.calibration import BASE_MODELS
from musix_trainer.models.genre.features import EvidenceKind
from musix_trainer.models.genre.model import GenreModel
from musix_trainer.models.genre.quality import artist_lookup
from musix_trainer.models.genre.training import fit
from musix_trainer.run import Run

FOLDS = 5
OURS = "ensemble"
HITS = (1, 3, 5)
Answers = dict[str, Floats]


def known_artists(context: EvaluationContext) -> dict[str, Results]:
    """Recordings split at random, shares as in the recipe: most artists of the test part were learned from."""
    run, figures = context.full_run, MetricCollector()
    settings = run.recipe.genre
    for number in range(context.seeds):
        seed = context.seed(number)
        parts = split.assign(len(run.catalogue), settings.validation, settings.test, seed)
        model = fit(run.catalogue, parts, settings, seed) if number else run.genre
        _measure(run, model, parts, seed, figures)
    return {"genre/known_artists": figures.results()}


def unseen_artists(context: EvaluationContext) -> dict[str, Results]:
    """Primary artists split at random, shares as in the recipe: nobody of the test part was learned from."""
    run, figures = context.full_run, MetricCollector()
    settings, artists = run.recipe.genre, run.catalogue.primary_artists()
    codes = np.unique(artists, return_inverse=True)[1]
    for number in range(context.seeds):
        seed = context.seed(number)
        parts = split.assign(int(codes.max()) + 1, settings.validation, settings.test, seed)[codes]
        leakage.check_artists(artists, np.flatnonzero(parts != split.TEST), np.flatnonzero(parts == split.TEST))
        _measure(run, fit(run.catalogue, parts, settings, seed), parts, seed, figures)
    return {"genre/unseen_artists": figures.results()}


def five_fold(context: EvaluationContext) -> dict[str, Results]:
    """Cross-validation: every recording is measured once, by a model that four fifths of the others made."""
    run, figures = context.full_run, MetricCollector()
    catalogue, settings = run.catalogue, run.recipe.genre
    folds = np.random.default_rng(context.seed(0)).permutation(len(catalogue)) % FOLDS
    clusters = np.unique(catalogue.primary_artists(), return_inverse=True)[1]
    lookups = np.empty(catalogue.families.shape, np.float32)
    confidence = np.empty(catalogue.families.shape, np.float32)
    for fold in range(FOLDS):
        progress.say(f"genre: fold {fold + 1} of {FOLDS}")
        test = np.flatnonzero(folds == fold)
        rest = np.flatnonzero(folds != fold)
        parts = np.full(len(catalogue), split.TEST, np.int8)
        parts[rest] = split.assign(len(rest), settings.validation / (1 - 1 / FOLDS), 0, context.seed(fold))
        leakage.check_recordings(catalogue, rest, test)
        model = fit(catalogue, parts, settings, context.seed(fold))
        confidence[test] = model.confidence(catalogue.inputs[test], *catalogue.texts(test))
        lookups[test] = artist_lookup(catalogue.primary_artists(), catalogue.families, rest, test)
    _add(figures, "", {OURS: confidence, "artist_lookup": lookups}, catalogue.families, clusters)
    return {"genre/five_fold": figures.results()}


def _measure(run: Run, model: GenreModel, parts: NDArray[np.int8], seed: int, figures: MetricCollector) -> None:
    """Add the figures of one split, of all its test rows and of those whose artists are known or not."""
    catalogue = run.catalogue
    train, learned, test = (
        np.flatnonzero(where) for where in (parts == split.TRAIN, parts != split.TEST, parts == split.TEST)
    )
    leakage.check_recordings(catalogue, learned, test)
    truth = catalogue.families[test]
    said, case = model.scores(catalogue.inputs[test], *catalogue.texts(test))
    scores, known = dict(zip(BASE_MODELS, said, strict=True)), case == EvidenceKind.KNOWN

    def of(*members: str) -> Floats:
        kept = [each if name in members else np.zeros_like(each) for name, each in scores.items()]
        return model.combine(kept, case)

    answers = {
        OURS: of(*scores),
        "artist_lookup": artist_lookup(catalogue.primary_artists(), catalogue.families, train, test),
        **{f"{name}_alone": each for name, each in scores.items()},  # as it says, without biases fitted to all
        **{f"without_{name}": of(*(each for each in scores if each != name)) for name in scores},
        **_baselines(catalogue.inputs, catalogue.families, train, test, run.recipe.genre, seed),
    }
    clusters = np.unique(catalogue.primary_artists(), return_inverse=True)[1][test]
    _add(figures, "", answers, truth, clusters)
    for label, kept in (("known_artists", known), ("unknown_artists", ~known)):
        if kept.any() and not kept.all():
            tallies = {name: _macro_f1(each[kept], truth[kept], clusters[kept]) for name, each in answers.items()}
            figures.add(f"macro_f1_{label}", tallies)


def _baselines(
    inputs: Floats, families: metrics.Truth, train: Rows, test: Rows, settings: recipe.Genre, seed: int
) -> Answers:
    """Learned without any artist: logistic regression over all inputs, XGBoost over the 12 audio features alone, and
    the share of each family."""
    rows, labels = np.nonzero(families[train])
    weight = 1 / families[train].sum(axis=1)[rows]
    progress.say("genre: logistic regression, XGBoost over audio alone")
    logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    logistic.fit(inputs[train][rows], labels, logisticregression__sample_weight=weight)
    audio = np.ascontiguousarray(inputs[:, : len(AUDIO)])
    trees = XGBClassifier(
        objective="multi:softprob",
        max_depth=settings.max_depth,
        learning_rate=settings.learning_rate,
        n_estimators=settings.n_estimators,
        subsample=settings.subsample,
        colsample_bytree=settings.colsample_bytree,
        multi_strategy=settings.multi_strategy,
        tree_method="hist",
        random_state=seed,
    )
    trees.fit(audio[train][rows], labels, sample_weight=weight)
    return {
        "logistic_regression": logistic.predict_proba(inputs[test]),
        "audio_only_xgboost": trees.predict_proba(audio[test]),
        "class_prior": np.tile(families[train].mean(axis=0), (len(test), 1)),
    }


def _add(figures: MetricCollector, suffix: str, answers: Answers, truth: metrics.Truth, clusters: Rows) -> None:
    figures.add("macro_f1" + suffix, _each(answers, lambda c: _macro_f1(c, truth, clusters)))
    for k in HITS:
        hits = {name: np.asarray(_top(each, truth, k).any(axis=1)) for name, each in answers.items()}
        figures.add(f"hit_at_{k}", {name: ClusteredMetric.mean(each, clusters) for name, each in hits.items()})
    figures.add(
        "precision_at_5", _each(answers, lambda c: ClusteredMetric.mean(_top(c, truth, 5).mean(axis=1), clusters))
    )
    figures.add("lrap", _each(answers, lambda c: ClusteredMetric.mean(_label_ranking(c, truth), clusters)))
    figures.add("ece", _each({OURS: answers[OURS]}, lambda c: _calibration(c, truth, clusters)))


def _each(answers: Answers, tally: Callable[[Floats], ClusteredMetric]) -> dict[str, ClusteredMetric]:
    return {name: tally(np.asarray(confidence)) for name, confidence in answers.items()}


def _macro_f1(confidence: Floats, truth: metrics.Truth, clusters: Rows) -> ClusteredMetric:
    chosen = confidence.argmax(axis=1)
    right = truth[np.arange(len(truth)), chosen]
    return ClusteredMetric.macro_f1(chosen, np.where(right, chosen, truth.argmax(axis=1)), clusters)


def _top(confidence: Floats, truth: metrics.Truth, k: int) -> NDArray[Any]:
    best = np.argsort(-confidence, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(truth, best, axis=1)


def _label_ranking(confidence: Floats, truth: metrics.Truth) -> NDArray[np.float64]:
    """Label ranking average precision of each row, as in scikit-learn: ties count against."""
    above = confidence[:, None, :] >= confidence[:, :, None]  # [row, label, other]
    places = above.sum(axis=2)
    right = (above & truth[:, None, :]).sum(axis=2)
    return np.asarray(np.where(truth, right / places, 0).sum(axis=1) / truth.sum(axis=1), np.float64)


def _calibration(confidence: Floats, truth: metrics.Truth, clusters: Rows) -> ClusteredMetric:
    right: NDArray[Any] = truth[np.arange(len(truth)), confidence.argmax(axis=1)]
    return ClusteredMetric.calibration(confidence.max(axis=1), right, clusters)
