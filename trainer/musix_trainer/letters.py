"""Letters: what runs of letters in the names of artists and in titles say of a track's families."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import SGDClassifier

from musix_runtime.arrays import ABSENT, Floats, Keys
from musix_runtime.genre import name_grams, plain, title_grams
from musix_trainer import metrics

FEWEST = 5  # names or titles that have a gram, for it to be known
EPOCHS = 10


def of_names(names: Sequence[Sequence[str]]) -> list[list[list[str]]]:
    """The grams of each name of each track."""
    return [[name_grams(name) for name in each] for each in names]


def of_titles(titles: Sequence[str]) -> list[list[list[str]]]:
    """The grams of each track's title."""
    return [[title_grams(title)] for title in titles]


def features(grams: Keys, tracks: list[list[list[str]]]) -> csr_matrix:
    """The features of tracks, each given as the grams of its texts, whose product with the weights `spelt` gives.
    Shape (n, grams)."""
    rows, columns, values = [], [], []
    for row, texts in enumerate(tracks):
        found = [places[places != ABSENT] for places in (grams.find(text) for text in texts)]
        found = [places for places in found if len(places)]
        for places in found:
            rows.append(np.full(len(places), row))
            columns.append(places)
            values.append(np.full(len(places), 1 / np.sqrt(len(places)) / len(found)))
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))) if rows else ([], ([], []))
    return csr_matrix(entries, shape=(len(tracks), len(grams.sorted)), dtype=np.float64)


def known(keys: list[str], titles: list[str]) -> NDArray[np.bytes_]:
    """The grams of at least `FEWEST` artists' names, and those of as many titles, sorted; one that no text has,
    when there are none."""
    counts = Counter(gram for key in keys for gram in name_grams(key))
    counts.update(gram for title in {plain(title) for title in titles} for gram in title_grams(title))
    kept = sorted(gram.encode() for gram, count in counts.items() if count >= FEWEST)
    return np.array(kept or [b"\xff"])


def weights(
    grams: Keys,
    names: list[list[str]],
    titles: list[str],
    truth: metrics.Truth,
    weight: Floats,
    alpha: float,
    seed: int,
) -> Floats:
    """Logistic regression over the grams of names, and another one over those of titles: each must do without the
    other. `weight` (n,) is that of each track. Shape (grams, families)."""
    rows, families = np.nonzero(truth)
    shared = (weight / truth.sum(axis=1))[rows]
    found = np.zeros((len(grams.sorted), truth.shape[1]), np.float32)
    for texts in (of_names(names), of_titles(titles)):
        given = features(grams, texts)
        model = SGDClassifier(
            loss="log_loss",
            alpha=alpha,
            max_iter=EPOCHS,
            tol=None,
            random_state=seed,
            n_jobs=-1,  # families do not depend on each other: the same on any number of threads
        )
        model.fit(given[rows], families, sample_weight=shared / shared.mean())
        found[:, model.classes_] += model.coef_.T
    return found
