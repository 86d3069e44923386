"""Training of the genre ensemble: preprocessing, base models, then the calibration on validation."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import Floats, Keys
from musix_trainer import progress, recipe
from musix_trainer.data import split
from musix_trainer.data.tracks import Tracks
from musix_trainer.models.genre import evidence, ngrams, quality
from musix_trainer.models.genre.artist_prior import find_credits, fit_prior, leave_one_out_prior
from musix_trainer.models.genre.base_models import fit_lightfm, fit_nameless, fit_xgboost
from musix_trainer.models.genre.calibration import BASE_MODELS, Calibration, Scores, fit_calibration
from musix_trainer.models.genre.evidence import EvidenceKind, evidence_kind
from musix_trainer.models.genre.examples import Examples, split_examples
from musix_trainer.models.genre.features import Preprocessing, fit_preprocessing
from musix_trainer.models.genre.learning_curves import N_TRACKS, record_xgboost
from musix_trainer.models.genre.model import GenreModel

MIN_CALIBRATION_ROWS = 50  # recordings with known artists, below which that kind is calibrated like the unknown


@dataclass(frozen=True)
class Prepared:
    """What the base models are fitted to: the training tracks with what is read of their artists and titles."""

    train: Examples
    validation: Examples
    preprocessing: Preprocessing
    texts: ngrams.TextFeatures  # of the training tracks
    gram_weights: Floats  # (grams, families)
    artist_prior: Floats  # (artists, families)
    prior: Floats  # (n, families), of each training track as if it were not in training
    known: NDArray[np.bool_]  # (n,), whether one of its artists would still be known
    unseen_logits: tuple[Floats, Floats]  # (n, families), out-of-fold, of names and of titles


def train(catalogue: Tracks, settings: recipe.Genre, seed: int) -> tuple[GenreModel, dict[str, Any]]:
    """Train on 80 % of the recordings that are of a family (by default), calibrate on 10 %, and measure on the rest.

    Then, with `refit`, train again on both the 80 % and the rest; the card keeps the figures of the first model.
    """
    catalogue = catalogue.with_family()
    parts = split.assign(len(catalogue), settings.validation, settings.test, seed)
    model = fit(catalogue, parts, settings, seed, with_curves=True)
    train_rows, test_rows = (np.flatnonzero(parts == part) for part in (split.TRAIN, split.TEST))
    card, held_out = quality.measure(model, catalogue, train_rows, test_rows)
    card["fits"] = {"measured": len(train_rows), "shipped": len(train_rows)}
    if settings.refit:
        progress.say("genre: again, on all recordings")
        shipped = np.where(parts == split.TEST, split.TRAIN, parts)
        model = fit(catalogue, shipped, settings, seed)
        card["fits"]["shipped"] = int((shipped == split.TRAIN).sum())
    return replace(model, held_out=held_out), card


def fit(
    catalogue: Tracks, parts: NDArray[np.int8], settings: recipe.Genre, seed: int, with_curves: bool = False
) -> GenreModel:
    """Train on the recordings that `parts` (n,) assigns to TRAIN, and calibrate on those of VALIDATION, on which the
    learning curves are recorded if wanted."""
    prepared = prepare(catalogue, parts, settings, seed)
    curve = prepared.validation.first(N_TRACKS) if with_curves else None
    model = fit_prepared(prepared, settings, seed, curve)
    if curve:
        record_xgboost(model, curve)
    return model


def prepare(catalogue: Tracks, parts: NDArray[np.int8], settings: recipe.Genre, seed: int) -> Prepared:
    """Fit what precedes the base models: bins and vocabularies, n-gram weights, and the genres of artists."""
    train, validation = split_examples(catalogue, parts)
    names, labels, alpha = train.artist_names(), train.labels, settings.letter_alpha
    preprocessing = fit_preprocessing(train.inputs, names, train.titles, settings)
    grams = Keys(preprocessing.grams)
    progress.say("genre: character n-grams")
    texts = ngrams.text_features(grams, train.artists, train.titles)
    gram_weights = ngrams.fit_weights(texts, train.truth, train.weight, alpha, seed)
    unseen_logits = ngrams.out_of_fold_logits(texts, train, alpha, seed)
    spellings = [[names[key.decode()]] for key in preprocessing.artists.tolist()]
    name_logits = ngrams.features(grams, ngrams.name_ngrams(spellings)) @ gram_weights
    artist_credits = find_credits(Keys(preprocessing.artists), train.artists)
    prior, known = leave_one_out_prior(artist_credits, labels, unseen_logits[0], settings.artist_prior)
    artist_prior = fit_prior(artist_credits, labels, name_logits, settings.artist_prior)
    return Prepared(train, validation, preprocessing, texts, gram_weights, artist_prior, prior, known, unseen_logits)


def fit_prepared(prepared: Prepared, settings: recipe.Genre, seed: int, curve: Examples | None = None) -> GenreModel:
    """Train the base models, and calibrate them. LightFM's learning curve is recorded on the tracks `curve`, if any."""
    train, preprocessing = prepared.train, prepared.preprocessing
    lightfm = fit_lightfm(preprocessing, train, settings, seed, curve)
    progress.say("genre: XGBoost")
    families = train.truth.shape[1]
    model = GenreModel(
        booster=fit_xgboost(
            preprocessing, train, prepared.prior, prepared.known, prepared.unseen_logits, settings, seed
        ),
        **fit_nameless(preprocessing, train, prepared.unseen_logits[1], settings, seed),
        item_factors=lightfm.item_embeddings,
        item_biases=lightfm.item_biases,
        family_factors=lightfm.user_embeddings,
        family_biases=lightfm.user_biases,
        weights=np.zeros((evidence.CALIBRATIONS, len(BASE_MODELS)), np.float32),  # until `_calibrate` fits them
        biases=np.zeros((evidence.CALIBRATIONS, families), np.float32),
        platt=np.zeros((evidence.CALIBRATIONS, 2), np.float32),
        gram_weights=prepared.gram_weights,
        artist_prior=prepared.artist_prior,
        **vars(preprocessing),
    )
    return _calibrate(model, _weights_of_others(prepared, settings.letter_alpha, seed), prepared.validation)


def _weights_of_others(prepared: Prepared, alpha: float, seed: int) -> Floats:
    """Return n-gram weights that were fitted without the artists of validation. Shape (grams, families).

    The n-grams of a name in training say more than those of an unknown name: artists that are hidden for the
    calibration must be read by weights that are as uncertain as at serving.
    """
    train, (names, titles) = prepared.train, prepared.texts
    validation_keys = set[str]().union(*prepared.validation.artist_keys())
    rows = np.flatnonzero([validation_keys.isdisjoint(keys) for keys in train.artist_keys()])
    return ngrams.fit_weights((names[rows], titles[rows]), train.truth[rows], train.weight[rows], alpha, seed)


def _calibrate(model: GenreModel, gram_weights_of_others: Floats, validation: Examples) -> GenreModel:
    """Return the model with a calibration for each kind of evidence, fitted to the validation tracks as such requests.

    Known artists: the tracks that have any. Unknown ones: all tracks with their artists hidden, their names and titles
    read by `gram_weights_of_others` and each weighted by `validation.weight`. Without names: all tracks as they are.
    """
    fits: list[Calibration] = []
    for level in range(len(evidence.INPUTS)):
        inputs = evidence.hide(validation.inputs, level)
        evidence_by_names = _validation_evidence(model, gram_weights_of_others, validation, inputs)
        fits += [fit_calibration(scores, validation.truth, target) for scores, target in evidence_by_names]
    stacked = (np.stack(each).astype(np.float32) for each in zip(*fits, strict=True))
    return GenreModel(**(vars(model) | dict(zip(Calibration._fields, stacked, strict=True))))


def _validation_evidence(
    model: GenreModel, gram_weights_of_others: Floats, validation: Examples, inputs: Floats
) -> list[tuple[Scores, Floats]]:
    """Return the scores and the weights (n, families) of the validation tracks for each kind of names."""
    count, artists = len(inputs), validation.artists
    hidden = model.artist_scores(model.item_features(inputs, [[]] * count)[0])
    item_features, known = model.item_features(inputs, artists)
    names, titles = ngrams.text_features(Keys(model.grams), artists, validation.titles)
    nothing, labels = np.zeros(validation.truth.shape, np.float32), validation.labels
    unknown_labels = labels * validation.weight[:, None]

    def scores(prior: Floats, title: Floats) -> Scores:
        kind = evidence_kind(np.zeros(count, bool), title)
        return hidden, model.tree_scores(inputs, prior, title, kind), *model.nameless_scores(inputs, title)

    name_logits, title_logits = names @ gram_weights_of_others, titles @ gram_weights_of_others
    unknown = scores(name_logits, nothing), unknown_labels
    if known.sum() < MIN_CALIBRATION_ROWS:
        known_artist = unknown
    else:
        kind = np.full(count, EvidenceKind.KNOWN)
        tree_scores = model.tree_scores(inputs, model.prior_scores(artists), nothing, kind)
        nameless = model.nameless_scores(inputs, nothing)
        known_artist = (model.artist_scores(item_features), tree_scores, *nameless), labels * known[:, None]
    by_names = {
        evidence.NO_NAMES: (scores(nothing, nothing), labels),
        evidence.KNOWN_ARTIST: known_artist,
        evidence.TITLE: (scores(nothing, titles @ model.gram_weights), labels),
        evidence.UNKNOWN_ARTIST: unknown,
        evidence.UNKNOWN_ARTIST_AND_TITLE: (scores(name_logits, title_logits), unknown_labels),
    }
    return [by_names[each] for each in range(len(evidence.NAMES))]
