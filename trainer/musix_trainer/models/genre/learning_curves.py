"""Learning curves of the genre's base models on some validation tracks. They read the models, and change nothing."""

import numpy as np
from lightfm import LightFM
from scipy.sparse import csr_matrix
from scipy.special import log_softmax
from xgboost import XGBClassifier

from musix_runtime.models.arrays import Floats
from musix_trainer import curves
from musix_trainer.evaluation import metrics
from musix_trainer.models.genre.evidence import evidence_kind
from musix_trainer.models.genre.examples import Examples
from musix_trainer.models.genre.model import GenreModel

N_TRACKS = 2000  # of validation
N_POINTS = 20  # of the curve of an XGBoost model


def record_lightfm(epoch: int, model: LightFM, item_features: csr_matrix, truth: metrics.Truth) -> None:
    """Record the share of tracks whose best family is right after an epoch, counted from 1."""
    items = item_features @ model.item_embeddings
    scores = items @ model.user_embeddings.T + model.user_biases  # the biases of the items favour no family
    curves.record("genre", epoch, lightfm_validation_hit_at_1=metrics.hit_at(scores, truth, 1))


def record_xgboost(model: GenreModel, validation: Examples) -> None:
    """Record the log loss of each XGBoost model after some of its rounds, by what the trained model predicts up to
    there. Each reads what it is made for: the first all that a request holds, the others no artist."""
    inputs, labels = validation.inputs, validation.labels
    _, known = model.item_features(inputs, validation.artists)
    title_logits = model.title_scores(validation.titles)
    read = np.where(known[:, None], 0, title_logits).astype(np.float32)
    first = model.tree_inputs(inputs, model.prior_scores(validation.artists), read, evidence_kind(known, read))
    for name, (features, margin) in {"booster": first, **model.nameless_inputs(inputs, title_logits)}.items():
        label = "xgboost" if name == "booster" else name
        for rounds, loss in _losses(getattr(model, name), features, margin, labels):
            curves.record("genre", rounds, **{f"{label}_validation_loss": loss})


def _losses(booster: XGBClassifier, features: Floats, margin: Floats | None, labels: Floats) -> list[tuple[int, float]]:
    """Return the mean log loss against the label distribution (n, families) after a number of rounds."""
    total = booster.get_booster().num_boosted_rounds()
    step = max(total // N_POINTS, 1)
    losses = []
    for start in range(0, total, step):
        end = min(start + step, total)
        margin = booster.predict(features, output_margin=True, base_margin=margin, iteration_range=(start, end))
        losses.append((end, float(-(labels * log_softmax(margin, axis=1)).sum(axis=1).mean())))
    return losses
