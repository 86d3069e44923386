"""Character n-grams of artist names and titles: features, vocabulary, and logistic regression of genre families."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import SGDClassifier

from musix_runtime.models.arrays import ABSENT, Floats, Keys
from musix_runtime.models.genre import artist_ngrams, normalize, title_ngrams
from musix_trainer.data.tables import text_codes
from musix_trainer.evaluation import metrics
from musix_trainer.models.genre.examples import Examples

MIN_COUNT = 5  # names or titles that must have an n-gram of the vocabulary
EPOCHS = 10
FOLDS = 5  # groups of artists for the out-of-fold logits
TextFeatures = tuple[csr_matrix, csr_matrix]  # of the names and of the title of each track, each (n, grams)


def name_ngrams(artists: Sequence[Sequence[str]]) -> list[list[list[str]]]:
    """Return the n-grams of each artist name of each track."""
    return [[artist_ngrams(name) for name in names] for names in artists]


def features(grams: Keys, tracks: list[list[list[str]]]) -> csr_matrix:
    """Return features of tracks, given the n-grams of their texts: their product with the n-gram weights equals the
    runtime's `ngram_logits`. Shape (n, grams)."""
    rows, columns, values = [], [], []
    for row, texts in enumerate(tracks):
        positions = [each[each != ABSENT] for each in (grams.find(text) for text in texts)]
        positions = [each for each in positions if len(each)]
        for each in positions:
            rows.append(np.full(len(each), row))
            columns.append(each)
            values.append(np.full(len(each), 1 / np.sqrt(len(each)) / len(positions)))
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))) if rows else ([], ([], []))
    return csr_matrix(entries, shape=(len(tracks), len(grams.sorted)), dtype=np.float64)


def text_features(grams: Keys, artists: Sequence[Sequence[str]], titles: Sequence[str]) -> TextFeatures:
    """Return the features of the names and of the titles of tracks."""
    return features(grams, name_ngrams(artists)), features(grams, [[title_ngrams(title)] for title in titles])


def vocabulary(names: Sequence[str], titles: list[str]) -> NDArray[np.bytes_]:
    """Return the n-grams of at least `MIN_COUNT` artist names, and those of as many different titles, sorted; if there
    are none, one n-gram that no text has."""
    counts = Counter(gram for name in names for gram in artist_ngrams(name))
    counts.update(
        gram for title in {normalize(title): title for title in titles}.values() for gram in title_ngrams(title)
    )
    frequent = sorted(gram.encode() for gram, count in counts.items() if count >= MIN_COUNT)
    return np.array(frequent or [b"\xff"])


def fit_weights(texts: TextFeatures, truth: metrics.Truth, weight: Floats, alpha: float, seed: int) -> Floats:
    """Fit one logistic regression to the n-grams of names and one to those of titles, each independent of the other.

    `weight` (n,) is the weight of each track. The result is 0 for fewer than two families. Shape (grams, families).
    """
    rows, families = np.nonzero(truth)
    weights = np.zeros((texts[0].shape[1], truth.shape[1]), np.float32)
    if len(set(families.tolist())) < 2:
        return weights
    row_weight = (weight / truth.sum(axis=1))[rows]
    for text in texts:
        model = SGDClassifier(
            loss="log_loss",
            alpha=alpha,
            max_iter=EPOCHS,
            tol=None,
            random_state=seed,
            n_jobs=-1,  # families are independent of each other: the result is the same on any number of threads
        )
        model.fit(text[rows], families, sample_weight=row_weight / row_weight.mean())
        if len(model.classes_) > 2:
            weights[:, model.classes_] += model.coef_.T
        else:
            weights[:, model.classes_] += model.coef_.T * [-0.5, 0.5]
    return weights


def out_of_fold_logits(texts: TextFeatures, train: Examples, alpha: float, seed: int) -> tuple[Floats, Floats]:
    """Return the logits of the names and of the title of each track, as for unknown artists.

    Primary artists are split into `FOLDS` groups; each group is read by weights that were fitted to the tracks that
    share no artist with it. Shapes (n, families).
    """
    keys = train.artist_keys()
    codes = text_codes(train.primary_artists)
    folds = (np.random.default_rng(seed).permutation(codes.max() + 1) % FOLDS)[codes]
    logits = np.zeros(train.truth.shape, np.float32), np.zeros(train.truth.shape, np.float32)
    for fold in range(FOLDS):
        held_out = folds == fold
        fold_keys = set[str]().union(*(keys[row] for row in np.flatnonzero(held_out)))
        rows = np.flatnonzero(~held_out & [fold_keys.isdisjoint(each) for each in keys])
        weights = fit_weights((texts[0][rows], texts[1][rows]), train.truth[rows], train.weight[rows], alpha, seed)
        for scores, text in zip(logits, texts, strict=True):
            scores[held_out] = text[held_out] @ weights
    return logits
