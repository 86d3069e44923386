"""Quality card of the genre ensemble: metrics on held-out recordings, with simple baselines."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import Floats
from musix_trainer import recipe
from musix_trainer.data import split
from musix_trainer.data.tables import text_codes
from musix_trainer.data.tracks import Tracks
from musix_trainer.evaluation import metrics
from musix_trainer.models.genre.calibration import BASE_MODELS
from musix_trainer.models.genre.evidence import CELLS, NAMES, has_known_artist
from musix_trainer.models.genre.model import GenreModel
from musix_trainer.quality import keys

ARTIST_GROUPS = ("all_artists", "known_artists", "unknown_artists")
BASELINES = ("artist_lookup", "xgboost_alone", "lightfm_alone")
CELL_METRICS = ("macro_f1", "hit_at_1", "ece")
QUALITY_KEYS = (
    keys("genre", ("macro_f1", "ece", "hit_at_1", "hit_at_3", "hit_at_5"))
    | keys("genre", ARTIST_GROUPS, ("recordings", "macro_f1"))
    | keys("genre", ARTIST_GROUPS, "baselines", BASELINES)
    | keys("genre", ARTIST_GROUPS, CELLS, CELL_METRICS)
    | keys("genre.weights", NAMES, BASE_MODELS)
    | keys("genre.fits", ("measured", "shipped"))  # recordings that each model learned from
)
FLOORS = {"genre.all_artists.macro_f1": "genre.all_artists.baselines.artist_lookup"}


def measure(
    model: GenreModel, catalogue: Tracks, train_rows: NDArray[np.int64], test_rows: NDArray[np.int64]
) -> tuple[dict[str, Any], Floats]:
    """Return the section `genre` of the quality card, measured on the test rows, and their confidence (n, families)."""
    truth, tracks = catalogue.families[test_rows], (catalogue.inputs[test_rows], *catalogue.texts(test_rows))
    scores, calibration = model.scores(*tracks)
    confidence, known = model.combine(scores, calibration), has_known_artist(calibration)
    by_cell = {
        name: confidence if name == "all_inputs" else model.confidence(*cell.restrict(*tracks))
        for name, cell in CELLS.items()
    }
    lookup = artist_lookup(catalogue.primary_artists(), catalogue.families, train_rows, test_rows)
    lightfm_alone = model.combine([scores[0], np.zeros_like(scores[1])], calibration)
    card: dict[str, Any] = {f"hit_at_{k}": metrics.hit_at(confidence, truth, k) for k in (1, 3, 5)}
    card["ece"] = metrics.calibration_error(confidence, truth)
    card["macro_f1"] = metrics.macro_f1(confidence, truth)
    baselines = dict(zip(BASELINES, (lookup, scores[1], lightfm_alone), strict=True))
    for label, rows in zip(ARTIST_GROUPS, (known | True, known, ~known), strict=True):
        if rows.any():
            card[label] = {
                "recordings": int(rows.sum()),
                "macro_f1": metrics.macro_f1(confidence[rows], truth[rows]),
                "baselines": {name: metrics.macro_f1(each[rows], truth[rows]) for name, each in baselines.items()},
                **{name: _cell_metrics(each[rows], truth[rows]) for name, each in by_cell.items()},
            }
    weights = model.weights[: len(NAMES)].tolist()  # where no input is missing
    card["weights"] = {
        name: dict(zip(BASE_MODELS, each, strict=True)) for name, each in zip(NAMES, weights, strict=True)
    }
    return card, confidence


def _cell_metrics(confidence: Floats, truth: metrics.Truth) -> dict[str, float]:
    values = metrics.macro_f1(confidence, truth), metrics.hit_at(confidence, truth, 1)
    return dict(zip(CELL_METRICS, (*values, metrics.calibration_error(confidence, truth)), strict=True))


def artist_lookup(
    artists: list[str], families: metrics.Truth, train_rows: NDArray[np.int64], test_rows: NDArray[np.int64]
) -> Floats:
    """Return the counts of families among the primary artist's training tracks, or among all training tracks where the
    artist has none: the baseline without learning. Shape (test rows, families)."""
    codes = text_codes(artists)
    counts = np.zeros((codes.max() + 1, families.shape[1]), np.float32)
    np.add.at(counts, codes[train_rows], families[train_rows].astype(np.float32))
    lookup = counts[codes[test_rows]]
    return np.where(lookup.any(axis=1, keepdims=True), lookup, counts.sum(axis=0))


def predict_test_split(
    model: GenreModel, catalogue: Tracks, settings: recipe.Genre, seed: int
) -> tuple[Floats, metrics.Truth]:
    """Return confidence and families (n, families) of the recordings that `train` held out with this seed, by the model
    that had not learned from them."""
    catalogue = catalogue.with_family()
    test = np.flatnonzero(split.assign(len(catalogue), settings.validation, settings.test, seed) == split.TEST)
    return model.held_out, catalogue.families[test]
