"""Genre: LightFM over artists and binned inputs, XGBoost over inputs, logistic regression over the letters of artists'
names with the shares of their families; averaged and calibrated on validation."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightfm import LightFM
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import coo_matrix, csr_matrix, hstack, vstack
from scipy.special import expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression, SGDClassifier
from xgboost import XGBClassifier

from musix_runtime.arrays import ABSENT, Floats, Keys
from musix_runtime.features import INPUT_NAMES
from musix_runtime.genre import artist_key, name_grams, spelt
from musix_trainer import folder, metrics, progress, recipe, split
from musix_trainer.factors import lightfm
from musix_trainer.tracks import Catalogue

# Clipped are the inputs without a natural bound; a share of 0..1 has no outliers, however skewed it is.
CLIPPED = ("loudness", "tempo", "duration_ms")
ENERGY, VALENCE = INPUT_NAMES.index("energy"), INPUT_NAMES.index("valence")
TEMPO, LOUDNESS = INPUT_NAMES.index("tempo"), INPUT_NAMES.index("loudness")
FEWEST_NAMES = 5  # artists whose names have a gram, for it to be known
NAME_EPOCHS = 10
FEWEST = 50  # recordings that a calibration is fitted on
FLOOR = 1e-6  # probabilities count as at least this far from 0 and 1


Scores = Sequence[Floats]  # of LightFM, of XGBoost, of the artist prior; each (n, families)


@dataclass(frozen=True)
class GenreModel:
    """The trained ensemble.

    LightFM takes the families as users and the tracks as items. Rows of `item_factors`: the unknown artist, the
    artists in the order of their keys, then the bins of each input. `low`, `high` (15,) clip the inputs; `edges`
    (15, bins-1) cut them, padded with infinity. Row 0 of the calibration serves tracks whose artists are unknown,
    row 1 the others: probabilities = softmax of weight of LightFM * score + weight of XGBoost * log probability +
    weight of the artist prior * score + bias of the family. They share one track among families; the confidence that a
    family is among a track's labels is sigmoid(slope * log-odds + intercept) of them (Platt 1999).
    """

    booster: XGBClassifier
    artists: NDArray[np.bytes_]
    item_factors: Floats
    item_biases: Floats
    family_factors: Floats
    family_biases: Floats
    low: Floats
    high: Floats
    edges: Floats
    bin_weight: Floats  # (), of a bin beside an artist's 1 in LightFM's features
    weights: Floats  # (2, 3): of LightFM, of XGBoost, of the artist prior
    biases: Floats  # (2, families)
    platt: Floats  # (2, 2): slope, intercept
    grams: NDArray[np.bytes_]  # runs of letters in names
    gram_weights: Floats  # (grams, families)
    artist_prior: Floats  # (artists, families): log share of each family among a known artist's tracks

    def confidence(self, inputs: Floats, artists: Sequence[Sequence[str]]) -> Floats:
        """Confidence of each family, by the native libraries. `inputs` (n, 15), NaN = missing. Shape (n, families)."""
        features, known = self.item_features(inputs, artists)
        return self.combine(
            (self.artist_scores(features), self.sound_scores(inputs), self.prior_scores(artists)), known
        )

    def combine(self, scores: Scores, known: NDArray[np.bool_]) -> Floats:
        """The calibrated average of the members' scores, each (n, families)."""
        weights, biases, platt = (each[known.astype(int)] for each in (self.weights, self.biases, self.platt))
        odds = log_odds(softmax(sum(weights[:, [i]] * each for i, each in enumerate(scores)) + biases, axis=1))
        return np.asarray(expit(platt[:, :1] * odds + platt[:, 1:]), np.float32)

    def sound_scores(self, inputs: Floats) -> Floats:
        """XGBoost's log probabilities. Shape (n, families)."""
        return np.log(np.maximum(self.booster.predict_proba(self.sound_features(inputs)), FLOOR))

    def sound_features(self, inputs: Floats) -> Floats:
        """What XGBoost sees: inputs clipped, energy * valence, tempo / (1 + |loudness|). Shape (n, 17)."""
        clipped = np.clip(inputs, self.low, self.high)
        mix = clipped[:, ENERGY] * clipped[:, VALENCE], clipped[:, TEMPO] / (1 + np.abs(clipped[:, LOUDNESS]))
        return np.column_stack([clipped, *mix]).astype(np.float32)

    def prior_scores(self, artists: Sequence[Sequence[str]]) -> Floats:
        """The prior of the first artist that is known; what the names say, when none is; 0 without names.
        Shape (n, families)."""
        keys, found = Keys(self.artists), np.zeros((len(artists), self.gram_weights.shape[1]), np.float32)
        for row, names in zip(found, artists, strict=True):
            places = keys.find([artist_key(name) for name in names])
            places = places[places != ABSENT]
            if len(places):
                row[:] = self.artist_prior[places[0]]
            else:
                row[:] = spelt(Keys(self.grams), self.gram_weights, names)
        return found

    def artist_scores(self, features: csr_matrix) -> Floats:
        """LightFM's scores. Shape (n, families)."""
        model = lightfm(self.item_factors, self.item_biases, self.family_factors, self.family_biases)
        count, families = features.shape[0], len(self.family_biases)
        pairs = (
            np.tile(np.arange(families), count).astype(np.int32),
            np.repeat(np.arange(count), families).astype(np.int32),
        )
        return np.asarray(
            model.predict(*pairs, item_features=features, num_threads=1).reshape(count, families), np.float32
        )

    def item_features(self, inputs: Floats, artists: Sequence[Sequence[str]]) -> tuple[csr_matrix, NDArray[np.bool_]]:
        """LightFM's features of tracks, and whether an artist of each is known. Shapes (n, items) and (n,)."""
        names, known = _artist_features(Keys(self.artists), artists)
        return hstack(
            [names, _bin_features(self.edges, inputs, float(self.bin_weight))], format="csr", dtype=np.float32
        ), known

    def save(self, path: Path) -> None:
        """Write the model into a new folder."""
        folder.save(path, {name: value for name, value in vars(self).items() if name != "booster"})
        self.booster.save_model(path / "booster.ubj")

    @classmethod
    def load(cls, path: Path) -> "GenreModel":
        """Read a model that `save` wrote."""
        booster = XGBClassifier()
        booster.load_model(path / "booster.ubj")
        return cls(booster=booster, **folder.load(path))


def log_odds(probability: Floats) -> Floats:
    """log(p / (1 - p)), p kept `FLOOR` away from 0 and 1."""
    kept = np.clip(probability, FLOOR, 1 - FLOOR)
    return np.asarray(np.log(kept) - np.log(1 - kept))


def train(catalogue: Catalogue, settings: recipe.Genre, seed: int) -> tuple[GenreModel, dict[str, Any]]:
    """Train on 80 % of the recordings (by default), calibrate on 10 %, measure on the rest."""
    parts = split.assign(len(catalogue), settings.validation, settings.test, seed)
    model = fit(catalogue, parts, settings, seed)
    return model, _measure(model, catalogue, *(np.flatnonzero(parts == part) for part in (split.TRAIN, split.TEST)))


def fit(catalogue: Catalogue, parts: NDArray[np.int8], settings: recipe.Genre, seed: int) -> GenreModel:
    """Train on the recordings that are of TRAIN by `parts` (n,), calibrate on those of VALIDATION."""
    train_rows, validation = (np.flatnonzero(parts == part) for part in (split.TRAIN, split.VALIDATION))
    names, inputs, truth = catalogue.artists(), catalogue.inputs, catalogue.families
    learned = [names[i] for i in train_rows]
    base = _untrained(inputs[train_rows], learned, settings)
    progress.say("genre: names")
    base["gram_weights"] = _gram_weights(base, learned, truth[train_rows], settings, seed)
    base["artist_prior"] = _artist_prior(base, learned, truth[train_rows], settings.artist_prior)
    model = _with_lightfm(base, inputs[train_rows], learned, truth[train_rows], settings, seed)
    progress.say("genre: XGBoost")
    _fit_booster(model, inputs[train_rows], truth[train_rows], settings, seed)
    # The letters of a name that was learned from say more than those of others do: hidden ones must be others.
    asked = [names[i] for i in validation]
    met = {artist_key(name) for each in asked for name in each}
    apart = np.array([met.isdisjoint(artist_key(name) for name in each) for each in learned])
    others = _gram_weights(base, [learned[i] for i in np.flatnonzero(apart)], truth[train_rows[apart]], settings, seed)
    return _calibrated(model, others, inputs[validation], asked, truth[validation])


def tested(model: GenreModel, catalogue: Catalogue, settings: recipe.Genre, seed: int) -> tuple[Floats, metrics.Truth]:
    """Confidence and families (n, families) of the recordings of the test part that `train` left out with this seed."""
    test = np.flatnonzero(split.assign(len(catalogue), settings.validation, settings.test, seed) == split.TEST)
    names = catalogue.artists()
    return model.confidence(catalogue.inputs[test], [names[i] for i in test]), catalogue.families[test]


def _untrained(inputs: Floats, names: list[list[str]], settings: recipe.Genre) -> dict[str, Any]:
    quarter, three = np.quantile(inputs, [0.25, 0.75], axis=0)
    clipped = np.isin(INPUT_NAMES, CLIPPED)
    reach = settings.iqr * (three - quarter)
    edges = np.full((inputs.shape[1], settings.bins - 1), np.inf, np.float32)
    for column, values in enumerate(inputs.T):
        cuts = np.unique(np.quantile(values, np.linspace(0, 1, settings.bins + 1)[1:-1]).astype(np.float32))
        edges[column, : len(cuts)] = cuts
    keys = sorted({key for each in names for name in each if (key := artist_key(name))})
    return {
        "artists": np.array([key.encode() for key in keys]),
        "grams": _grams(keys),
        "low": np.where(clipped, quarter - reach, -np.inf).astype(np.float32),
        "high": np.where(clipped, three + reach, np.inf).astype(np.float32),
        "edges": edges,
        "bin_weight": np.float32(settings.bin_weight),
    }


def _gram_weights(
    base: dict[str, Any], names: list[list[str]], truth: metrics.Truth, settings: recipe.Genre, seed: int
) -> Floats:
    """Logistic regression over the grams of names; an artist's tracks weigh as much as the root of their number."""
    grams = Keys(base["grams"])
    features = vstack([_spelling(grams, each) for each in names], format="csr")
    primary = [artist_key(each[0]) for each in names]
    _, codes, counts = np.unique(primary, return_inverse=True, return_counts=True)
    rows, families = np.nonzero(truth)
    weight = 1 / np.sqrt(counts[codes][rows]) / truth.sum(axis=1)[rows]
    model = SGDClassifier(loss="log_loss", alpha=settings.name_alpha, max_iter=NAME_EPOCHS, tol=None, random_state=seed)
    model.fit(features[rows], families, sample_weight=weight / weight.mean())
    weights = np.zeros((len(grams.sorted), truth.shape[1]), np.float32)
    weights[:, model.classes_] = model.coef_.T
    return weights


def _artist_prior(base: dict[str, Any], names: list[list[str]], truth: metrics.Truth, strength: float) -> Floats:
    """Logarithm of the share of each family among an artist's training tracks, as if there were `strength` more tracks,
    shared as the name says. Shape (artists, families)."""
    keys, grams = Keys(base["artists"]), Keys(base["grams"])
    found = [keys.find([artist_key(name) for name in each]) for each in names]
    rows = np.repeat(np.arange(len(names)), [len(each) for each in found])
    places = np.concatenate(found)
    rows, places = rows[places != ABSENT], places[places != ABSENT]
    counts = np.zeros((len(keys.sorted), truth.shape[1]))
    np.add.at(counts, places, (truth / truth.sum(axis=1, keepdims=True))[rows])
    said = np.array([spelt(grams, base["gram_weights"], [key.decode()]) for key in base["artists"].tolist()])
    shares = counts + strength * softmax(said, axis=1)
    return np.log(np.maximum(shares / shares.sum(axis=1, keepdims=True), FLOOR)).astype(np.float32)


def _spelling(grams: Keys, names: Sequence[str]) -> csr_matrix:
    """The features of names: those whose mean product with the weights `spelt` gives. Shape (1, grams)."""
    found = [places for places in (_places(grams, name) for name in names) if len(places)]
    columns = np.concatenate(found) if found else np.empty(0, np.int64)
    values = [np.full(len(places), 1 / np.sqrt(len(places)) / len(found)) for places in found]
    data = np.concatenate(values) if found else np.empty(0)
    return csr_matrix((data, (np.zeros(len(columns), np.int64), columns)), shape=(1, len(grams.sorted)))


def _places(grams: Keys, name: str) -> NDArray[np.int64]:
    places = grams.find(name_grams(name))
    return places[places != ABSENT]


def _grams(keys: list[str]) -> NDArray[np.bytes_]:
    """The grams that the names of at least `FEWEST_NAMES` artists have, sorted; the empty one when there are none."""
    counts = Counter(gram for key in keys for gram in name_grams(key))
    kept = sorted(gram.encode() for gram, count in counts.items() if count >= FEWEST_NAMES)
    return np.array(kept or [b"\xff"])


def _artist_features(keys: Keys, artists: Sequence[Sequence[str]]) -> tuple[csr_matrix, NDArray[np.bool_]]:
    """Column 0 is the unknown artist, taken when none is known; known ones share a weight of 1."""
    found = [keys.find([artist_key(name) for name in names]) for names in artists]
    columns = [places[places != ABSENT] + 1 for places in found]
    known = np.array([len(each) > 0 for each in columns], bool)
    columns = [each if len(each) else np.zeros(1, np.int64) for each in columns]
    rows = np.repeat(np.arange(len(columns)), [len(each) for each in columns])
    values = np.concatenate([np.full(len(each), 1 / len(each)) for each in columns])
    shape = (len(columns), len(keys.sorted) + 1)
    return csr_matrix((values, (rows, np.concatenate(columns))), shape=shape, dtype=np.float32), known


def _bin_features(edges: Floats, inputs: Floats, weight: float) -> csr_matrix:
    """One column a bin; a missing input is in none."""
    bins = edges.shape[1] + 1
    places = (inputs[:, :, None] >= edges).sum(axis=2) + np.arange(inputs.shape[1]) * bins
    rows, columns = np.nonzero(~np.isnan(inputs))
    values = np.full(len(rows), weight, np.float32)
    return csr_matrix((values, (rows, places[rows, columns])), shape=(len(inputs), bins * inputs.shape[1]))


def _with_lightfm(
    base: dict[str, Any],
    inputs: Floats,
    names: list[list[str]],
    truth: metrics.Truth,
    settings: recipe.Genre,
    seed: int,
) -> GenreModel:
    """Train LightFM; part of the tracks are seen once more without artist, so that unknown ones are met in training."""
    masked = np.flatnonzero(np.random.default_rng(seed).random(len(inputs)) < settings.artist_mask)
    artists, _ = _artist_features(Keys(base["artists"]), [*names, *([] for _ in masked)])
    bins = _bin_features(base["edges"], inputs, settings.bin_weight)
    features = hstack([artists, vstack([bins, bins[masked]])], format="csr", dtype=np.float32)
    labels = coo_matrix(np.vstack([truth, truth[masked]]).T.astype(np.int32))
    model = LightFM(
        no_components=settings.no_components,
        learning_schedule=settings.learning_schedule,
        loss=settings.loss,
        k=settings.k,
        random_state=seed,
    )
    for _ in progress.steps("genre: LightFM epochs", settings.epochs):
        model.fit_partial(labels, item_features=features, epochs=1, num_threads=1)
    families = truth.shape[1]
    return GenreModel(
        booster=XGBClassifier(),
        item_factors=model.item_embeddings,
        item_biases=model.item_biases,
        family_factors=model.user_embeddings,
        family_biases=model.user_biases,
        weights=np.full((2, 3), 0.5, np.float32),
        biases=np.zeros((2, families), np.float32),
        platt=np.array([[1, 0], [1, 0]], np.float32),
        **base,
    )


def _fit_booster(model: GenreModel, inputs: Floats, truth: metrics.Truth, settings: recipe.Genre, seed: int) -> None:
    """A track with several families is a row of each, sharing its weight."""
    rows, families = np.nonzero(truth)
    model.booster.set_params(
        objective="multi:softprob",
        max_depth=settings.max_depth,
        learning_rate=settings.learning_rate,
        n_estimators=settings.n_estimators,
        subsample=settings.subsample,
        colsample_bytree=settings.colsample_bytree,
        multi_strategy=settings.multi_strategy,
        tree_method="hist",
        random_state=seed,
    )
    model.booster.fit(model.sound_features(inputs)[rows], families, sample_weight=1 / truth.sum(axis=1)[rows])


def _calibrated(
    model: GenreModel, other_weights: Floats, inputs: Floats, names: list[list[str]], truth: metrics.Truth
) -> GenreModel:
    """Fit by maximum likelihood: row 1 on the tracks with known artists, row 0 on all tracks, their artists hidden and
    their names read by `other_weights`, which never met them."""
    sound = model.sound_scores(inputs)
    fitted: list[tuple[NDArray[Any], ...]] = []
    for artists, wanted in (([[] for _ in names], False), (names, True)):
        features, known = model.item_features(inputs, artists)
        kept = known == wanted
        if kept.sum() < FEWEST:  # too few known artists to fit to: they are served like the others
            fitted.append(fitted[0])
            continue
        prior = model.prior_scores(names) if wanted else _read(model.grams, other_weights, names)
        scores = (model.artist_scores(features), sound, prior)
        fitted.append(_fit_calibration([each[kept] for each in scores], truth[kept]))
    weights, biases, platt = (np.stack(each).astype(np.float32) for each in zip(*fitted, strict=True))
    return GenreModel(**(vars(model) | {"weights": weights, "biases": biases, "platt": platt}))


def _read(grams: NDArray[np.bytes_], weights: Floats, names: list[list[str]]) -> Floats:
    return np.array([spelt(Keys(grams), weights, each) for each in names])


def _fit_calibration(scores: Sequence[Floats], truth: metrics.Truth) -> tuple[NDArray[Any], ...]:
    """Weight of each member (members,), biases (families,), slope and intercept (2,)."""
    members, families = len(scores), truth.shape[1]
    target = truth / truth.sum(axis=1, keepdims=True)

    def loss(x: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        logs = log_softmax(sum(x[i] * each for i, each in enumerate(scores)) + x[members:], axis=1)
        error = (np.exp(logs) - target) / len(truth)
        slope = np.concatenate([[(error * each).sum() for each in scores], error.sum(axis=0)])
        # A hint of ridge keeps the biases of families that validation hardly holds near 0.
        slope[members:] += 2e-4 * x[members:]
        return float(-(target * logs).sum() / len(truth) + 1e-4 * (x[members:] ** 2).sum()), slope

    start = np.concatenate([[0.1, 0.5, 0.1], np.zeros(families)])
    bounds = [*[(0, None)] * members, *[(None, None)] * families]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    odds = log_odds(softmax(sum(found[i] * each for i, each in enumerate(scores)) + found[members:], axis=1))
    platt = LogisticRegression(C=1e6).fit(odds.reshape(-1, 1), truth.ravel())
    return found[:members], found[members:], np.array([platt.coef_[0, 0], platt.intercept_[0]])


def _measure(
    model: GenreModel, catalogue: Catalogue, train_rows: NDArray[np.int64], test: NDArray[np.int64]
) -> dict[str, Any]:
    names, truth = catalogue.artists(), catalogue.families[test]
    features, known = model.item_features(catalogue.inputs[test], [names[i] for i in test])
    artist, sound, prior = scores = (
        model.artist_scores(features),
        model.sound_scores(catalogue.inputs[test]),
        model.prior_scores([names[i] for i in test]),
    )
    confidence = model.combine(scores, known)
    lookup = artist_lookup(catalogue.primary_artists(), catalogue.families, train_rows, test)
    alone = model.combine((artist, np.zeros_like(sound), np.zeros_like(prior)), known)
    card: dict[str, Any] = {f"hit_at_{k}": metrics.hit_at(confidence, truth, k) for k in (1, 3, 5)}
    card["ece"] = metrics.calibration_error(confidence, truth)
    card["macro_f1"] = metrics.macro_f1(confidence, truth)
    for label, kept in (("all", known | True), ("known artists", known), ("artists unknown", ~known)):
        if kept.any():
            answers = {"ensemble": confidence, "artist look-up": lookup, "XGBoost alone": sound, "LightFM alone": alone}
            figures = {name: metrics.macro_f1(scores[kept], truth[kept]) for name, scores in answers.items()}
            card[f"macro_f1, {label}"] = {"recordings": int(kept.sum()), **figures}
    card["weight of LightFM, of XGBoost, of the artist prior"] = {
        "known artists": [float(x) for x in model.weights[1]],
        "artists unknown": [float(x) for x in model.weights[0]],
    }
    return card


def artist_lookup(
    artists: list[str], families: metrics.Truth, train_rows: NDArray[np.int64], asked: NDArray[np.int64]
) -> Floats:
    """The baseline without learning: the share of families among the primary artist's training tracks, else of all
    training tracks. Shape (asked, families)."""
    codes = np.unique(artists, return_inverse=True)[1]
    counts = np.zeros((codes.max() + 1, families.shape[1]), np.float32)
    np.add.at(counts, codes[train_rows], families[train_rows].astype(np.float32))
    found = counts[codes[asked]]
    return np.where(found.any(axis=1, keepdims=True), found, counts.sum(axis=0))
