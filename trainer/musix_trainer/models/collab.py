"""The collab part: LightFM factors, the fold-in of new listeners, and co-occurrence embeddings of tracks."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from lightfm import LightFM
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix, diags, hstack, identity
from sklearn.utils.extmath import randomized_svd

from musix_runtime.models.arrays import ABSENT, Floats, Keys, Rows
from musix_runtime.models.collab import RANGE_DAYS, Collab, damped_mean
from musix_runtime.models.index import Index
from musix_trainer import array_store, progress, recipe
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation import metrics
from musix_trainer.models.collab_curve import CollabCurve
from musix_trainer.models.lightfm import lightfm
from musix_trainer.part import Part, Training
from musix_trainer.quality import RANKING, keys

DAY = 86_400  # seconds
N_POWER_ITERATIONS = 10  # of the randomised SVD; recommendations are then as good as with an exact one
SHORT_HISTORIES = (1, 3, 10)  # sizes for which fold-in is measured
FOLD_IN_SIZES = (*SHORT_HISTORIES, 20)  # for which it is fitted, besides the whole history


@dataclass(frozen=True)
class CollabModel:
    """Factors of the listeners and recordings in training, the bias last, and the listeners' histories.

    The arrays are those of `musix_runtime.models.collab.Collab`, which has an index over `track_factors`.
    """

    listeners: NDArray[np.bytes_]
    listener_factors: Floats
    rows: NDArray[np.int32]
    track_factors: Floats
    track_mean: Floats
    tastes: Floats
    fold_in: Floats
    history_offsets: NDArray[np.int64]
    history_rows: NDArray[np.int32]
    history_recent: NDArray[np.int32]

    def runtime(self) -> Collab:
        """Return the runtime's collab part over these arrays."""
        return Collab(
            Keys(self.listeners),
            self.listener_factors,
            self.rows,
            Index(self.track_factors),
            self.track_mean,
            self.tastes,
            self.fold_in,
            self.history_offsets,
            self.history_rows,
            self.history_recent,
        )

    def scores(self, factors: Floats) -> Floats:
        """Return the score of each recording in `rows` for a listener with these factors. Shape (rows,)."""
        return self.track_factors @ np.append(factors[:-1], np.float32(1)) + factors[-1]

    def native_scores(self, listeners: NDArray[np.int64], positions: NDArray[np.int64]) -> Floats:
        """Return LightFM's own scores of pairs of listener and position in `rows`. Shape (n,)."""
        items, users = self.track_factors, self.listener_factors
        model = lightfm(items[:, :-1], items[:, -1], users[:, :-1], users[:, -1])
        return np.asarray(
            model.predict(listeners.astype(np.int32), positions.astype(np.int32), num_threads=1), np.float32
        )

    def with_histories(self, data: Interactions) -> "CollabModel":
        """Return the model with the histories of its listeners in `data`, of which it may have learned from a part."""
        own = data.without_playlists()
        numbers = Keys(self.listeners).find(own.names)[own.listener]
        known = numbers != ABSENT
        offsets, rows, recent = _histories(own.select(known), numbers[known], len(self.listeners))
        return replace(self, history_offsets=offsets, history_rows=rows.astype(np.int32), history_recent=recent)

    def save(self, path: Path) -> None:
        """Write the model into a new folder."""
        array_store.save(path, vars(self))

    @classmethod
    def load(cls, path: Path) -> "CollabModel":
        """Read a model that `save` wrote."""
        return cls(**array_store.load(path))


def train(
    data: Interactions,
    settings: recipe.Collab,
    seed: int,
    artists: Rows | None = None,
    validation: Interactions | None = None,
) -> CollabModel:
    """Train on every entry of `data`; listeners and recordings without entries have no factors.

    Playlists shape the factors of recordings, the tastes and the fold-in, and are then forgotten. With
    `settings.artist_features`, the factors of a recording are the sum of its own and those of its artist, by the number
    of each row's artist, `artists`. The learning curve is recorded on `validation`, if there is any.
    """
    listeners, listener = np.unique(data.listener, return_inverse=True)
    rows, position = np.unique(data.row, return_inverse=True)
    model = LightFM(
        no_components=settings.no_components,
        learning_schedule=settings.learning_schedule,
        loss=settings.loss,
        learning_rate=settings.learning_rate,
        item_alpha=settings.item_alpha,
        user_alpha=settings.user_alpha,
        random_state=seed,
    )
    pairs = coo_matrix((np.ones(len(data), np.int32), (listener, position)))
    features = _artist_features(artists[rows]) if settings.artist_features and artists is not None else None
    curve = CollabCurve(data, validation, settings.epochs) if validation else None
    for epoch in progress.steps("collab: LightFM epochs", settings.epochs):
        model.fit_partial(pairs, item_features=features, epochs=1, num_threads=1)
        if curve:
            curve.record(epoch + 1, model, features)
    if curve:
        curve.warn()
    listener_factors = np.column_stack([model.user_embeddings, model.user_biases])
    track_factors = np.column_stack([model.item_embeddings, model.item_biases])
    if features is not None:
        track_factors = np.asarray(features @ track_factors, np.float32)
    offsets, history, recent = _histories(data, listener, len(listeners))
    positions = np.searchsorted(rows, history)
    known = int(np.searchsorted(listeners, data.listeners))
    return CollabModel(
        listeners=np.array([data.names[i].encode() for i in listeners[:known]], np.bytes_),
        listener_factors=listener_factors[:known],
        rows=rows.astype(np.int32),
        track_factors=track_factors,
        track_mean=track_factors.mean(axis=0, dtype=np.float32),
        tastes=fit_tastes(pairs.tocsr(), settings, seed),
        fold_in=fit_fold_in(track_factors, listener_factors, positions, offsets, settings.fold_in_ridge, seed),
        history_offsets=offsets[: known + 1],
        history_rows=history[: offsets[known]].astype(np.int32),
        history_recent=recent[:known],
    )


def _artist_features(artists: Rows) -> csr_matrix:
    """Return item features of LightFM: each recording has one of its own, and that of its artist."""
    names, codes = np.unique(artists, return_inverse=True)
    shape = (len(artists), len(names))
    own = csr_matrix((np.ones(len(artists), np.float32), (np.arange(len(artists)), codes)), shape)
    return hstack([identity(len(artists), dtype=np.float32), own]).tocsr()


def _histories(
    data: Interactions, listener: NDArray[Any], count: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return offsets, the recordings of each listener, newest (then most played) first, and how many are recent."""
    order = np.lexsort((data.row, -data.plays, -data.last, listener))
    owner, last = listener[order], data.last[order]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=count))]).astype(np.int64)
    newest = data.last.max()
    recent = [np.bincount(owner, weights=last >= newest - days * DAY, minlength=count) for days in RANGE_DAYS.values()]
    return offsets, data.row[order], np.stack(recent, axis=1).astype(np.int32)


def fit_tastes(pairs: csr_matrix, settings: recipe.Collab, seed: int) -> Floats:
    """Return the co-occurrence embeddings of the tracks, of the kind that the recipe names. Shape (tracks, width)."""
    if settings.taste_ridge:
        return fit_autoencoder(pairs, settings.taste_width, settings.taste_ridge, settings.taste_scale, seed)
    return fit_cooccurrence_embeddings(pairs, settings.taste_width, settings.taste_damping, seed)


def fit_autoencoder(pairs: csr_matrix, width: int, ridge: float, scale: float, seed: int) -> Floats:
    """Return embeddings whose products are the weights of a linear autoencoder, times `scale`. Shape (tracks, width).

    The weights from the tracks of a history to all tracks minimise the squared error over the matrix (listeners,
    tracks) with an L2 penalty `ridge`: EASE (Steck 2019) without its zero diagonal, which does not matter as tracks of
    the history are not recommended. With the right singular vectors V and values s of the matrix, they are
    V s^2 / (s^2 + ridge) V'.
    """
    _, values, vectors = randomized_svd(pairs, width, n_iter=N_POWER_ITERATIONS, random_state=seed)
    shares = values**2 / (values**2 + ridge)
    return np.ascontiguousarray((vectors * np.sqrt(scale * shares)[:, None]).T, np.float32)


def fit_cooccurrence_embeddings(pairs: csr_matrix, width: int, damping: float, seed: int) -> Floats:
    """Return co-occurrence embeddings of the tracks, of length 1 at most. Shape (tracks, width).

    They are the first right singular vectors of the matrix (listeners, tracks), normalised against active listeners and
    popular tracks: rows are divided by the square root of the listener's number of tracks, columns by the track's
    number of listeners to the power of `damping`. The product of two tracks' embeddings is their affinity. There are
    fewer columns than `width` if there are fewer listeners or tracks.
    """
    tracks, listeners = (np.asarray(pairs.sum(axis=axis), np.float64).ravel() for axis in (0, 1))
    normalized = diags(listeners**-0.5) @ pairs @ diags(tracks**-damping)
    return np.ascontiguousarray(
        randomized_svd(normalized, width, n_iter=N_POWER_ITERATIONS, random_state=seed)[2].T, np.float32
    )


def fit_fold_in(
    tracks: Floats, listeners: Floats, positions: NDArray[Any], offsets: NDArray[np.int64], ridge: float, seed: int
) -> Floats:
    """Fit a ridge regression from the damped mean of a history's track factors to the listener's factors.

    The examples of each listener are its whole history and random short ones. Shape (width + 1, width).
    """
    rng = np.random.default_rng(seed)
    means, targets = [], []
    for i, factors in enumerate(listeners):
        history = positions[offsets[i] : offsets[i + 1]]
        for size in (len(history), *FOLD_IN_SIZES):
            sample = rng.choice(history, min(size, len(history)), replace=False)
            means.append(damped_mean(tracks[sample]))
            targets.append(factors)
    x, y = np.array(means, np.float64), np.array(targets, np.float64)
    penalty = ridge * np.diag(np.append(np.ones(x.shape[1] - 1), 0))
    return np.linalg.solve(x.T @ x + penalty, x.T @ y).astype(np.float32)


def measure(model: CollabModel, test: Interactions) -> dict[str, Any]:
    """Measure the full ranking of all recordings outside of a listener's history against held-out interactions.

    Baselines: popularity, and the same listeners folded in with their newest 1, 3 or 10 recordings. The fold-in was
    fitted to their training histories.
    """
    part = model.runtime()
    relevant = relevant_rows(model, test)
    histories = {i: part.history(i) for i in relevant}
    popularity = np.bincount(np.searchsorted(model.rows, model.history_rows), minlength=len(model.rows))
    known = {i: model.scores(model.listener_factors[i]) for i in relevant}
    card: dict[str, Any] = {
        "users": len(relevant),
        "known_users": _rank(model, known, histories, relevant),
        "popularity": _rank(model, dict.fromkeys(relevant, popularity.astype(np.float32)), histories, relevant),
    }
    new_users = {}
    for size in SHORT_HISTORIES:
        folded = {i: part.fold_in(histories[i][:size]) for i in relevant}
        scores = {i: model.scores(factors) for i, factors in folded.items() if factors is not None}
        new_users[f"history_{size}"] = _rank(model, scores, histories, relevant)
    return card | {"new_users": new_users}


def relevant_rows(model: CollabModel, held_out: Interactions) -> dict[int, set[int]]:
    """Return the held-out catalogue rows of each listener with factors, by number in the model; no set is empty."""
    numbers = Keys(model.listeners).find(held_out.names)
    relevant: dict[int, set[int]] = {}
    for listener, row in zip(numbers[held_out.listener].tolist(), held_out.row.tolist(), strict=True):
        if listener >= 0:
            relevant.setdefault(listener, set()).add(row)
    return relevant


def _rank(
    model: CollabModel,
    scores: dict[int, Floats],
    histories: dict[int, NDArray[np.int64]],
    relevant: dict[int, set[int]],
) -> dict[str, float]:
    lists = []
    for i, values in scores.items():
        unseen = values.copy()
        unseen[np.searchsorted(model.rows, histories[i])] = -np.inf
        lists.append(model.rows[np.argsort(-unseen, kind="stable")[:10]].astype(np.int64))
    return metrics.ranking(lists, [relevant[i] for i in scores], 10)


def _train_part(training: Training) -> tuple[CollabModel, dict[str, Any]]:
    artists = training.catalogue.artist_numbers
    model = train(training.train, training.recipe.collab, training.recipe.seed, artists, training.validation)
    return model, {"collab": measure(model, training.test)}


QUALITY_KEYS = (
    keys("collab", "users")
    | keys("collab", ("known_users", "popularity"), RANKING)
    | keys("collab.new_users", (f"history_{size}" for size in SHORT_HISTORIES), RANKING)
)
FLOORS = {"collab.known_users.ndcg_at_10": "collab.popularity.ndcg_at_10"}
PART = Part("collab", _train_part, lambda path, recipe: CollabModel.load(path), QUALITY_KEYS, FLOORS)
