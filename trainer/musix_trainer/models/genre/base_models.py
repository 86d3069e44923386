"""The base models of the genre ensemble that are fitted by a library: LightFM and XGBoost."""

import numpy as np
from lightfm import LightFM
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, hstack, vstack
from xgboost import XGBClassifier

from musix_runtime.models.arrays import Floats, Keys
from musix_trainer import progress, recipe
from musix_trainer.models.genre.evidence import evidence_kind, mask
from musix_trainer.models.genre.examples import Examples
from musix_trainer.models.genre.features import (
    TITLE_MARGIN,
    Preprocessing,
    artist_features,
    audio_features,
    base_margin,
    bin_features,
    lightfm_features,
    sound_features,
    title_features,
    tree_features,
)
from musix_trainer.models.genre.learning_curves import record_lightfm

NO_TITLE_SHARE = 0.2  # share without a title of the tracks that XGBoost sees again with unknown artists
NO_INPUTS_SHARE = 0.05  # share without any inputs of all rows of XGBoost


def classifier(settings: recipe.Genre, seed: int, **options: float) -> XGBClassifier:
    """Return an untrained XGBoost classifier with the recipe's settings and further `options`."""
    return XGBClassifier(
        objective="multi:softprob",
        max_depth=settings.max_depth,
        learning_rate=settings.learning_rate,
        n_estimators=settings.n_estimators,
        subsample=settings.subsample,
        colsample_bytree=settings.colsample_bytree,
        multi_strategy=settings.multi_strategy,
        tree_method="hist",
        random_state=seed,
        **options,
    )


def fit_lightfm(
    preprocessing: Preprocessing, train: Examples, settings: recipe.Genre, seed: int, curve: Examples | None = None
) -> LightFM:
    """Train LightFM, with families as users and tracks as items.

    A share of the tracks, `artist_mask`, is seen again without its artists, so that the unknown artist is learned. The
    learning curve is recorded on the tracks `curve`, if there are any.
    """
    masked = np.flatnonzero(np.random.default_rng(seed).random(len(train.inputs)) < settings.artist_mask)
    artists, _ = artist_features(Keys(preprocessing.artists), [*train.artists, *([] for _ in masked)])
    bins = bin_features(preprocessing.edges, train.inputs, settings.bin_weight)
    item_features = hstack([artists, vstack([bins, bins[masked]])], format="csr", dtype=np.float32)
    labels = coo_matrix(np.vstack([train.truth, train.truth[masked]]).T.astype(np.int32))
    model = LightFM(
        no_components=settings.no_components,
        learning_schedule=settings.learning_schedule,
        loss=settings.loss,
        k=settings.k,
        random_state=seed,
    )
    if curve:
        keys, weight = Keys(preprocessing.artists), float(preprocessing.bin_weight)
        curve_features, _ = lightfm_features(keys, preprocessing.edges, weight, curve.inputs, curve.artists)
    for epoch in progress.steps("genre: LightFM epochs", settings.epochs):
        model.fit_partial(labels, item_features=item_features, epochs=1, num_threads=1)
        if curve:
            record_lightfm(epoch + 1, model, curve_features, curve.truth)
    return model


def fit_nameless(
    preprocessing: Preprocessing, train: Examples, title_logits: Floats, settings: recipe.Genre, seed: int
) -> dict[str, XGBClassifier]:
    """Train the models that read no artist: XGBoost over all inputs and the title logits (n, families), over all
    inputs, and over the 12 audio features. The first two see some tracks without popularity."""
    inputs = mask(train.inputs, settings.masked, 0, np.random.default_rng(seed))
    sound = sound_features(inputs, preprocessing.low, preprocessing.high)
    silent = mask(train.inputs, settings.masked, NO_INPUTS_SHARE, np.random.default_rng(seed))
    titles = title_features(sound_features(silent, preprocessing.low, preprocessing.high), title_logits)
    weight = 1 / train.truth.sum(axis=1)
    examples, families = np.nonzero(train.truth)

    def fitted(features: Floats, margin: Floats | None = None) -> XGBClassifier:
        booster = classifier(settings, seed, max_bin=settings.max_bin, base_score=0.5)
        margin = None if margin is None else margin[examples]
        return booster.fit(features[examples], families, sample_weight=weight[examples], base_margin=margin)

    return {
        "titles": fitted(titles, (TITLE_MARGIN * title_logits).astype(np.float32)),
        "sound": fitted(sound),
        "audio": fitted(audio_features(sound)),
    }


def fit_xgboost(
    preprocessing: Preprocessing,
    train: Examples,
    prior: Floats,
    known: NDArray[np.bool_],
    unseen_logits: tuple[Floats, Floats],
    settings: recipe.Genre,
    seed: int,
) -> XGBClassifier:
    """Train XGBoost on top of the artist prior and the title logits: the trees learn where these are wrong.

    Each track is seen with its leave-one-out `prior` (n, families), and with its title where none of its artists is
    `known` (n,). The share `stranger` of the tracks is seen again as of unknown artists, weighted by `train.weight`:
    with the out-of-fold logits of names and titles, `unseen_logits`, some without a title. Of all these rows some lack
    inputs. A track with several families is a row for each, which share its weight.
    """
    name_logits, title_logits = unseen_logits
    count, rng = len(train.inputs), np.random.default_rng(seed)
    again = np.flatnonzero(rng.random(count) < settings.stranger)
    rows = np.concatenate([np.arange(count), again])
    untitled = np.concatenate([known, rng.random(len(again)) < NO_TITLE_SHARE])
    titles = np.where(untitled[:, None], 0, title_logits[rows])
    priors = np.vstack([prior, name_logits[again]])
    kind = evidence_kind(np.concatenate([known, np.zeros(len(again), bool)]), titles)
    inputs = mask(train.inputs[rows], settings.masked, NO_INPUTS_SHARE, rng)
    features = tree_features(inputs, preprocessing.low, preprocessing.high, priors, titles, kind)
    margin = base_margin(priors, titles, kind)
    again_weight = train.weight[again] / train.weight[again].mean() if len(again) else np.empty(0)
    weight = np.concatenate([np.ones(count), again_weight]) / train.truth[rows].sum(axis=1)
    examples, families = np.nonzero(train.truth[rows])
    # the same base score for all families, so that only the base margins differ
    booster = classifier(settings, seed, max_bin=settings.max_bin, base_score=0.5)
    return booster.fit(features[examples], families, sample_weight=weight[examples], base_margin=margin[examples])
