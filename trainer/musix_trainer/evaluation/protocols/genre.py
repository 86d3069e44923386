"""Genre protocols: families of held-out recordings.

A choice is right if it is among the recording's labels. Intervals are over primary artists.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from musix_runtime.models.arrays import Floats, Rows
from musix_runtime.models.features import AUDIO
from musix_runtime.models.genre import artist_key
from musix_trainer import progress, recipe
from musix_trainer.data import split
from musix_trainer.data.tracks import Tracks
from musix_trainer.evaluation import leakage, metrics
from musix_trainer.evaluation.bootstrap import ClusteredMetric
from musix_trainer.evaluation.protocols import EvaluationContext, MetricCollector, Results
from musix_trainer.models.genre.base_models import classifier
from musix_trainer.models.genre.calibration import BASE_MODELS
from musix_trainer.models.genre.evidence import ALL_INPUTS, CELLS, NO_POPULARITY, Cell, has_known_artist
from musix_trainer.models.genre.model import GenreModel
from musix_trainer.models.genre.quality import artist_lookup
from musix_trainer.models.genre.training import Prepared, fit, fit_prepared, prepare

FOLDS = 5
OURS = "ensemble"
HITS = (1, 3, 5)
CELL_HITS = (1, 5)
ALL_INPUTS_CELL = "all_inputs"
CALIBRATED = (OURS, "xgboost", "logistic_regression", "artist_lookup_xgboost", "class_prior")  # whose scores are shares
TrackInputs = tuple[Floats, Sequence[Sequence[str]], Sequence[str]]  # inputs (n, 15), artists and titles
Predictions = dict[str, Floats]  # confidence (n, families) by model


def known_artists(context: EvaluationContext) -> dict[str, Results]:
    """Measure a random split of recordings, with the recipe's shares: most artists of the test part are in training.

    Every kind of evidence of `CELLS` is measured. The model is fitted again without the test part.
    """
    catalogue, settings = context.full_run.catalogue.with_family(), context.full_run.recipe.genre
    collector = MetricCollector()
    for number in range(context.seeds):
        seed = context.seed(number)
        parts = split.assign(len(catalogue), settings.validation, settings.test, seed)
        _measure(catalogue, parts, settings, seed, collector)
    return {"genre/known_artists": collector.results()}


def unseen_artists(context: EvaluationContext) -> dict[str, Results]:
    """Measure a random split of artists, with the recipe's shares: no credited artist of a test track is in training.

    Every kind of evidence of `CELLS` is measured.
    """
    catalogue, settings = context.full_run.catalogue.with_family(), context.full_run.recipe.genre
    artists, collector = catalogue.artist_keys(), MetricCollector()
    for number in range(context.seeds):
        seed = context.seed(number)
        parts = split.assign_by_artist(artists, settings.validation, settings.test, seed)
        seen, test = np.isin(parts, (split.TRAIN, split.VALIDATION)), parts == split.TEST
        leakage.check_credited_artists(artists, np.flatnonzero(seen), np.flatnonzero(test))
        _measure(catalogue, parts, settings, seed, collector)
    return {"genre/unseen_artists": collector.results()}


def five_fold(context: EvaluationContext) -> dict[str, Results]:
    """Measure by five-fold cross-validation, in which each recording is tested once, with all inputs."""
    run, collector = context.full_run, MetricCollector()
    catalogue, settings = run.catalogue.with_family(), run.recipe.genre
    folds = np.random.default_rng(context.seed(0)).permutation(len(catalogue)) % FOLDS
    clusters = catalogue.artist_numbers
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


def _measure(
    catalogue: Tracks, parts: NDArray[np.int8], settings: recipe.Genre, seed: int, collector: MetricCollector
) -> None:
    """Add the metrics of one split: of all inputs, also by known and unknown artists, and of each kind of evidence."""
    seen, test = np.flatnonzero(np.isin(parts, (split.TRAIN, split.VALIDATION))), np.flatnonzero(parts == split.TEST)
    leakage.check_recordings(catalogue, seen, test)
    prepared = prepare(catalogue, parts, settings, seed)
    model = fit_prepared(prepared, settings, seed)
    baselines = Baselines(prepared, model, settings, seed)
    train = np.flatnonzero(parts == split.TRAIN)
    lookup = artist_lookup(catalogue.primary_artists(), catalogue.families, train, test)
    truth, tracks = catalogue.families[test], (catalogue.inputs[test], *catalogue.texts(test))
    clusters = catalogue.artist_numbers[test]
    for name, cell in CELLS.items():
        progress.say(f"genre: {name}")
        predictions = baselines.predict(cell, tracks, lookup if cell.artists else None)
        if name != ALL_INPUTS_CELL:
            own = model.confidence(*cell.restrict(*tracks))
            _add_cell(collector, name, {OURS: own, **predictions}, truth, clusters)
            continue
        own, ablations, known = _ablations(model, tracks)
        predictions = {OURS: own, "artist_lookup": lookup, **ablations, **predictions}
        _add_metrics(collector, predictions, truth, clusters)
        for label, mask in (("known_artists", known), ("unknown_artists", ~known)):
            if mask.any() and not mask.all():
                by_model = {
                    each: _macro_f1(scores[mask], truth[mask], clusters[mask]) for each, scores in predictions.items()
                }
                collector.add(f"macro_f1_{label}", by_model)


def _ablations(model: GenreModel, tracks: TrackInputs) -> tuple[Floats, Predictions, NDArray[np.bool_]]:
    """Return the confidence, that of each base model alone and without each, and whether an artist is known."""
    base_scores, calibration = model.scores(*tracks)
    scores = dict(zip(BASE_MODELS, base_scores, strict=True))

    def combine(*names: str) -> Floats:
        selected = [each if name in names else np.zeros_like(each) for name, each in scores.items()]
        return model.combine(selected, calibration)

    ablations = {
        **{f"{name}_alone": each for name, each in scores.items()},  # the raw scores, without the fitted biases
        **{f"without_{name}": combine(*(each for each in scores if each != name)) for name in scores},
    }
    return combine(*scores), ablations, has_known_artist(calibration)


@dataclass(frozen=True)
class Baselines:
    """Models that are taught the same tracks and the same evidence: inputs, genres of the artist, letters of the title.

    The genres of an artist are those of its other tracks; of an unknown artist, what its letters say.
    """

    prepared: Prepared
    model: GenreModel
    settings: recipe.Genre
    seed: int

    def predict(self, cell: Cell, tracks: TrackInputs, lookup: Floats | None) -> Predictions:
        """Return the predictions for tracks, of which the models are taught what the cell holds.

        With a look-up (n, families), a track whose artist has none gets the prediction of XGBoost.
        """
        train = self.prepared.train
        rows, labels = np.nonzero(train.truth)
        weight = 1 / train.truth.sum(axis=1)[rows]
        inputs, artists, titles = tracks
        taught = self._features(cell, train.inputs, self.prepared.prior, self.prepared.unseen_logits[1])
        asked = self._features(cell, inputs, self.model.prior_scores(artists), self.model.title_scores(titles))
        trees = classifier(self.settings, self.seed, max_bin=self.settings.max_bin)
        logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=100, tol=1e-3))
        trees.fit(taught[rows], labels, sample_weight=weight)
        logistic.fit(taught[rows], labels, logisticregression__sample_weight=weight)
        predictions = {"xgboost": trees.predict_proba(asked), "logistic_regression": logistic.predict_proba(asked)}
        if lookup is not None:
            shares = lookup / np.maximum(lookup.sum(axis=1, keepdims=True), 1)
            known = self._knows(artists)
            predictions["artist_lookup_xgboost"] = np.where(known[:, None], shares, predictions["xgboost"])
        predictions["class_prior"] = np.tile(train.labels.mean(axis=0), (len(inputs), 1))
        return predictions

    def _features(self, cell: Cell, inputs: Floats, prior: Floats, title: Floats) -> Floats:
        columns = ({ALL_INPUTS: inputs, NO_POPULARITY: inputs[:, : len(AUDIO)]}.get(cell.inputs), prior, title)
        used = (True, cell.artists, cell.title)
        return np.hstack([each for each, used in zip(columns, used, strict=True) if used and each is not None])

    def _knows(self, artists: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
        """Return whether the primary artist of each track is one of training's. Shape (n,)."""
        known = set(self.prepared.train.primary_artists)
        return np.array([(artist_key(names[0]) or names[0]) in known for names in artists])


def _add_cell(
    collector: MetricCollector, cell: str, predictions: Predictions, truth: metrics.Truth, clusters: Rows
) -> None:
    collector.add(f"macro_f1_{cell}", _map(predictions, lambda c: _macro_f1(c, truth, clusters)))
    for k in CELL_HITS:
        hits = {name: np.asarray(_top(each, truth, k).any(axis=1)) for name, each in predictions.items()}
        collector.add(f"hit_at_{k}_{cell}", {name: ClusteredMetric.mean(each, clusters) for name, each in hits.items()})
    collector.add(f"ece_{cell}", _map(predictions, lambda c: _calibration(c, truth, clusters)))


def _add_metrics(collector: MetricCollector, predictions: Predictions, truth: metrics.Truth, clusters: Rows) -> None:
    collector.add("macro_f1", _map(predictions, lambda c: _macro_f1(c, truth, clusters)))
    for k in HITS:
        hits = {name: np.asarray(_top(each, truth, k).any(axis=1)) for name, each in predictions.items()}
        collector.add(f"hit_at_{k}", {name: ClusteredMetric.mean(each, clusters) for name, each in hits.items()})
    collector.add(
        "precision_at_5", _map(predictions, lambda c: ClusteredMetric.mean(_top(c, truth, 5).mean(axis=1), clusters))
    )
    collector.add("lrap", _map(predictions, lambda c: ClusteredMetric.mean(_label_ranking(c, truth), clusters)))
    calibrated = {name: each for name, each in predictions.items() if name in CALIBRATED}
    collector.add("ece", _map(calibrated, lambda c: _calibration(c, truth, clusters)))


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
