"""Quality card of the genre ensemble: metrics on held-out recordings, with simple baselines."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import Floats
from musix_trainer import recipe
from musix_trainer.data import split
from musix_trainer.data.tracks import Tracks
from musix_trainer.evaluation import metrics
from musix_trainer.models.genre.calibration import BASE_MODELS
from musix_trainer.models.genre.features import EvidenceKind
from musix_trainer.models.genre.model import GenreModel
from musix_trainer.quality import keys

ARTIST_GROUPS = ("known_artists", "unknown_artists")
KIND_NAMES = {
    EvidenceKind.KNOWN: "known_artists",
    EvidenceKind.UNKNOWN: "unknown_artists",
    EvidenceKind.TITLED: "unknown_artists_with_title",
}
BASELINES = ("artist_lookup", "xgboost_alone", "lightfm_alone")
QUALITY_KEYS = (
    keys("genre", ("macro_f1", "ece", "hit_at_1", "hit_at_3", "hit_at_5"))
    | keys("genre", ("all_artists", *ARTIST_GROUPS), ("recordings", "macro_f1"))
    | keys("genre", ("all_artists", *ARTIST_GROUPS), "baselines", BASELINES)
    | keys("genre.weights", KIND_NAMES.values(), BASE_MODELS)
)
FLOORS = {"genre.all_artists.macro_f1": "genre.all_artists.baselines.artist_lookup"}


def measure(
    model: GenreModel, catalogue: Tracks, train_rows: NDArray[np.int64], test_rows: NDArray[np.int64]
) -> dict[str, Any]:
    """Return the section `genre` of the quality card, measured on the test rows."""
    truth = catalogue.families[test_rows]
    scores, kind = model.scores(catalogue.inputs[test_rows], *catalogue.texts(test_rows))
    confidence, known = model.combine(scores, kind), kind == EvidenceKind.KNOWN
    lookup = artist_lookup(catalogue.primary_artists(), catalogue.families, train_rows, test_rows)
    lightfm_alone = model.combine([scores[0], np.zeros_like(scores[1])], kind)
    card: dict[str, Any] = {f"hit_at_{k}": metrics.hit_at(confidence, truth, k) for k in (1, 3, 5)}
    card["ece"] = metrics.calibration_error(confidence, truth)
    card["macro_f1"] = metrics.macro_f1(confidence, truth)
    baselines = dict(zip(BASELINES, (lookup, scores[1], lightfm_alone), strict=True))
    for label, rows in (("all_artists", known | True), ("known_artists", known), ("unknown_artists", ~known)):
        if rows.any():
            card[label] = {
                "recordings": int(rows.sum()),
                "macro_f1": metrics.macro_f1(confidence[rows], truth[rows]),
                "baselines": {name: metrics.macro_f1(each[rows], truth[rows]) for name, each in baselines.items()},
            }
    card["weights"] = {
        name: dict(zip(BASE_MODELS, model.weights[kind].tolist(), strict=True)) for kind, name in KIND_NAMES.items()
    }
    return card


def artist_lookup(
    artists: list[str], families: metrics.Truth, train_rows: NDArray[np.int64], test_rows: NDArray[np.int64]
) -> Floats:
    """Return the counts of families among the primary artist's training tracks, or among all training tracks where the
    artist has none: the baseline without learning. Shape (test rows, families)."""
    codes = np.unique(artists, return_inverse=True)[1]
    counts = np.zeros((codes.max() + 1, families.shape[1]), np.float32)
    np.add.at(counts, codes[train_rows], families[train_rows].astype(np.float32))
    lookup = counts[codes[test_rows]]
    return np.where(lookup.any(axis=1, keepdims=True), lookup, counts.sum(axis=0))


def predict_test_split(
    model: GenreModel, catalogue: Tracks, settings: recipe.Genre, seed: int
) -> tuple[Floats, metrics.Truth]:
    """Return confidence and families (n, families) of the recordings that `train` held out with this seed."""
    test = np.flatnonzero(split.assign(len(catalogue), settings.validation, settings.test, seed) == split.TEST)
    return model.confidence(catalogue.inputs[test], *catalogue.texts(test)), catalogue.families[test]
