"""Training of the genre ensemble: preprocessing, base models, then the calibration on validation."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import Floats, Keys
from musix_trainer import progress, recipe
from musix_trainer.data import split
from musix_trainer.data.tracks import Tracks
from musix_trainer.models.genre import ngrams, quality
from musix_trainer.models.genre.artist_prior import find_credits, fit_prior, leave_one_out_prior
from musix_trainer.models.genre.base_models import fit_lightfm, fit_xgboost
from musix_trainer.models.genre.calibration import BASE_MODELS, Calibration, Scores, fit_calibration
from musix_trainer.models.genre.examples import Examples, split_examples
from musix_trainer.models.genre.features import EvidenceKind, evidence_kind, fit_preprocessing
from musix_trainer.models.genre.model import GenreModel

MIN_CALIBRATION_ROWS = 50  # recordings with known artists, below which that kind is calibrated like the unknown


def train(catalogue: Tracks, settings: recipe.Genre, seed: int) -> tuple[GenreModel, dict[str, Any]]:
    """Train on 80 % of the recordings (by default), calibrate on 10 %, measure on the rest."""
    parts = split.assign(len(catalogue), settings.validation, settings.test, seed)
    model = fit(catalogue, parts, settings, seed)
    train_rows, test_rows = (np.flatnonzero(parts == part) for part in (split.TRAIN, split.TEST))
    return model, quality.measure(model, catalogue, train_rows, test_rows)


def fit(catalogue: Tracks, parts: NDArray[np.int8], settings: recipe.Genre, seed: int) -> GenreModel:
    """Train on the recordings that `parts` (n,) assigns to TRAIN, and calibrate on those of VALIDATION."""
    train, validation = split_examples(catalogue, parts)
    names, labels, alpha = train.artist_names(), train.labels, settings.letter_alpha
    preprocessing = fit_preprocessing(train.inputs, names, train.titles, settings)
    artists, grams = Keys(preprocessing.artists), Keys(preprocessing.grams)
    progress.say("genre: character n-grams")
    texts = ngrams.text_features(grams, train.artists, train.titles)
    gram_weights = ngrams.fit_weights(texts, train.truth, train.weight, alpha, seed)
    unseen_logits = ngrams.out_of_fold_logits(texts, train, alpha, seed)
    spellings = [[names[key.decode()]] for key in preprocessing.artists.tolist()]
    name_logits = ngrams.features(grams, ngrams.name_ngrams(spellings)) @ gram_weights
    artist_credits = find_credits(artists, train.artists)
    lightfm = fit_lightfm(preprocessing, train, settings, seed)
    progress.say("genre: XGBoost")
    prior, known = leave_one_out_prior(artist_credits, labels, unseen_logits[0], settings.artist_prior)
    families = labels.shape[1]
    model = GenreModel(
        booster=fit_xgboost(preprocessing, train, prior, known, unseen_logits, settings, seed),
        item_factors=lightfm.item_embeddings,
        item_biases=lightfm.item_biases,
        family_factors=lightfm.user_embeddings,
        family_biases=lightfm.user_biases,
        weights=np.zeros((len(EvidenceKind), len(BASE_MODELS)), np.float32),  # until `_calibrate` fits them
        biases=np.zeros((len(EvidenceKind), families), np.float32),
        platt=np.zeros((len(EvidenceKind), 2), np.float32),
        gram_weights=gram_weights,
        artist_prior=fit_prior(artist_credits, labels, name_logits, settings.artist_prior),
        **vars(preprocessing),
    )
    return _calibrate(model, _weights_of_others(texts, train, validation, alpha, seed), validation)


def _weights_of_others(
    texts: ngrams.TextFeatures, train: Examples, validation: Examples, alpha: float, seed: int
) -> Floats:
    """Return n-gram weights that were fitted without the artists of validation. Shape (grams, families).

    The n-grams of a name in training say more than those of an unknown name: artists that are hidden for the
    calibration must be read by weights that are as uncertain as at serving.
    """
    validation_keys = set[str]().union(*validation.artist_keys())
    rows = np.flatnonzero([validation_keys.isdisjoint(keys) for keys in train.artist_keys()])
    return ngrams.fit_weights((texts[0][rows], texts[1][rows]), train.truth[rows], train.weight[rows], alpha, seed)


def _calibrate(model: GenreModel, gram_weights_of_others: Floats, validation: Examples) -> GenreModel:
    """Return the model with the calibration of each evidence kind.

    KNOWN is fitted to the tracks with known artists; UNKNOWN and TITLED to all tracks with their artists hidden, their
    names and titles read by `gram_weights_of_others` and each weighted by `validation.weight`, UNKNOWN without titles.
    """
    inputs, artists = validation.inputs, validation.artists
    hidden_features, _ = model.item_features(inputs, [[] for _ in artists])
    item_features, known = model.item_features(inputs, artists)
    texts = ngrams.text_features(Keys(model.grams), artists, validation.titles)
    name_logits, title_logits = (each @ gram_weights_of_others for each in texts)
    no_title, hidden = np.zeros(validation.truth.shape, np.float32), model.artist_scores(hidden_features)

    def scores(artist_scores: Floats, has_artist: bool, prior: Floats, title: Floats) -> Scores:
        kind = evidence_kind(np.full(len(inputs), has_artist), title)
        return artist_scores, model.tree_scores(inputs, prior, title, kind)

    hidden_labels = validation.labels * validation.weight[:, None]
    unknown = scores(hidden, False, name_logits, no_title), hidden_labels
    titled = scores(hidden, False, name_logits, title_logits), hidden_labels
    if known.sum() < MIN_CALIBRATION_ROWS:
        fits = {EvidenceKind.UNKNOWN: unknown, EvidenceKind.KNOWN: unknown, EvidenceKind.TITLED: titled}
    else:
        known_scores = scores(model.artist_scores(item_features), True, model.prior_scores(artists), no_title)
        known_labels = validation.labels * known[:, None]
        fits = {EvidenceKind.UNKNOWN: unknown, EvidenceKind.KNOWN: (known_scores, known_labels)}
        fits[EvidenceKind.TITLED] = titled
    fitted = [fit_calibration(fits[kind][0], validation.truth, fits[kind][1]) for kind in EvidenceKind]
    stacked = (np.stack(each).astype(np.float32) for each in zip(*fitted, strict=True))
    return GenreModel(**(vars(model) | dict(zip(Calibration._fields, stacked, strict=True))))
