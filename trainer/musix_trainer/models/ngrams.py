"""Letters: what runs of letters in the names of artists and in titles say of a track's families."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import SGDClassifier

from musix_runtime.models.arrays import ABSENT, Floats, Keys
from musix_runtime.models.genre import artist_key, artist_ngrams, normalize, title_ngrams
from musix_trainer.evaluation import metrics

MIN_COUNT = 5  # names or titles that have a gram, for it to be known
EPOCHS = 10
FOLDS = 5  # parts of the artists, each read by letters that the others taught
Given = tuple[csr_matrix, csr_matrix]  # features of the names and of the title of each track


def of_names(names: Sequence[Sequence[str]]) -> list[list[list[str]]]:
    """The grams of each name of each track."""
    return [[artist_ngrams(name) for name in each] for each in names]


def of_titles(titles: Sequence[str]) -> list[list[list[str]]]:
    """The grams of each track's title."""
    return [[title_ngrams(title)] for title in titles]


def features(grams: Keys, tracks: list[list[list[str]]]) -> csr_matrix:
    """The features of tracks, each given as the grams of its texts, for `ngram_logits`.
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


def read(grams: Keys, names: Sequence[Sequence[str]], titles: Sequence[str]) -> Given:
    """The features of the names and of the titles of tracks, each (n, grams)."""
    return features(grams, of_names(names)), features(grams, of_titles(titles))


def vocabulary(names: Sequence[str], titles: list[str]) -> NDArray[np.bytes_]:
    """The grams of at least `MIN_COUNT` artists' names, and those of as many titles, sorted; one that no text has,
    when there are none."""
    counts = Counter(gram for name in names for gram in artist_ngrams(name))
    counts.update(
        gram for title in {normalize(title): title for title in titles}.values() for gram in title_ngrams(title)
    )
    kept = sorted(gram.encode() for gram, count in counts.items() if count >= MIN_COUNT)
    return np.array(kept or [b"\xff"])


def weights(given: Given, truth: metrics.Truth, weight: Floats, alpha: float, seed: int) -> Floats:
    """Logistic regression over the grams of names, and another one over those of titles: each must do without the
    other. `weight` (n,) is that of each track. 0 where there are not two families to tell apart.
    Shape (grams, families)."""
    rows, families = np.nonzero(truth)
    found = np.zeros((given[0].shape[1], truth.shape[1]), np.float32)
    if len(set(families.tolist())) < 2:
        return found
    shared = (weight / truth.sum(axis=1))[rows]
    for texts in given:
        model = SGDClassifier(
            loss="log_loss",
            alpha=alpha,
            max_iter=EPOCHS,
            tol=None,
            random_state=seed,
            n_jobs=-1,  # families do not depend on each other: the same on any number of threads
        )
        model.fit(texts[rows], families, sample_weight=shared / shared.mean())
        if len(model.classes_) > 2:
            found[:, model.classes_] += model.coef_.T
        else:
            found[:, model.classes_] += model.coef_.T * [-0.5, 0.5]
    return found


def out_of_fold_logits(
    given: Given,
    names: list[list[str]],
    primary: Sequence[str],
    truth: metrics.Truth,
    weight: Floats,
    alpha: float,
    seed: int,
) -> tuple[Floats, Floats]:
    """What the names and the title of each track say to one who never met any of its artists: a part of the `primary`
    artists at a time is read by the letters of the tracks that share no name with it. Shapes (n, families)."""
    keys = [{artist_key(name) for name in each} for each in names]
    codes = np.unique(primary, return_inverse=True)[1]
    folds = (np.random.default_rng(seed).permutation(codes.max() + 1) % FOLDS)[codes]
    said = np.zeros(truth.shape, np.float32), np.zeros(truth.shape, np.float32)
    for fold in range(FOLDS):
        asked = folds == fold
        met = set[str]().union(*(keys[row] for row in np.flatnonzero(asked)))
        apart = np.flatnonzero(~asked & [met.isdisjoint(each) for each in keys])
        learned = weights((given[0][apart], given[1][apart]), truth[apart], weight[apart], alpha, seed)
        for scores, texts in zip(said, given, strict=True):
            scores[asked] = texts[asked] @ learned
    return said
