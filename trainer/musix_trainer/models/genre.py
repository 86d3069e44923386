"""Genre: LightFM over artists and binned inputs, the shares of artists' families or, for unknown artists, logistic
regression over the letters of names and titles, XGBoost over inputs and these; averaged, calibrated on validation."""

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
from sklearn.linear_model import LogisticRegression
from xgboost import XGBClassifier

from musix_runtime.models.arrays import ABSENT, Floats, Keys
from musix_runtime.models.features import INPUT_NAMES
from musix_runtime.models.genre import artist_key, artist_ngrams, ngram_logits, title_ngrams
from musix_trainer import array_store, progress, recipe
from musix_trainer.data import split
from musix_trainer.data.tracks import Tracks
from musix_trainer.evaluation import metrics
from musix_trainer.models import ngrams
from musix_trainer.models.lightfm import lightfm
from musix_trainer.part import Part, Training
from musix_trainer.quality import keys

# Clipped are the inputs without a natural bound; a share of 0..1 has no outliers, however skewed it is.
CLIPPED = ("loudness", "tempo", "duration_ms")
ENERGY, VALENCE = INPUT_NAMES.index("energy"), INPUT_NAMES.index("valence")
TEMPO, LOUDNESS = INPUT_NAMES.index("tempo"), INPUT_NAMES.index("loudness")
INITIAL_WEIGHTS = (0.1, 0.9, 0.1, 0.1)  # weights of the members, from which they are fitted
MIN_CALIBRATION_ROWS = 50  # recordings that a calibration is fitted on
FEATURED_ARTIST_WEIGHT = 0.2  # of a track: what it counts for its artists but the first, beside 1 for that one
PRIOR_MARGIN = (
    0.5,
    1.0,
    0.5,
)  # on the artist's prior, in each case: XGBoost starts from it, and from what the title says
TITLE_MARGIN = 0.5
NO_TITLE_SHARE = 0.2  # share, of the tracks that XGBoost sees once more as of strangers, of those without a title
FLOOR = 1e-6  # probabilities count as at least this far from 0 and 1


BASE_MODELS = ("lightfm", "xgboost", "artist_prior", "title")
ARTIST_GROUPS = ("known_artists", "unknown_artists")  # of the quality card
Scores = Sequence[Floats]  # of the BASE_MODELS; each (n, families)
UNKNOWN, KNOWN, TITLED = range(3)  # how a track is met: an artist is known; none is, but its title says something


@dataclass(frozen=True)
class GenreModel:
    """The trained ensemble.

    LightFM takes the families as users and the tracks as items. Rows of `item_factors`: the unknown artist, the
    artists in the order of their keys, then the bins of each input. `low`, `high` (15,) clip the inputs; `edges`
    (15, bins-1) cut them, padded with infinity. The calibration has a row for each case in which a track is met,
    UNKNOWN, KNOWN and TITLED: probabilities = softmax of the members' scores (XGBoost's are log probabilities) times
    their weights, and the bias of the family. They share one track among families; the confidence that a family is
    among a track's labels is sigmoid(slope * log-odds + intercept) of them (Platt 1999).
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
    weights: Floats  # (3, 4): of the BASE_MODELS in each case
    biases: Floats  # (3, families)
    platt: Floats  # (3, 2): slope, intercept
    grams: NDArray[np.bytes_]  # runs of letters in names and titles
    gram_weights: Floats  # (grams, families)
    artist_prior: Floats  # (artists, families): log share of each family among a known artist's tracks

    def confidence(self, inputs: Floats, artists: Sequence[Sequence[str]], titles: Sequence[str]) -> Floats:
        """Confidence of each family, by the native libraries. `inputs` (n, 15), NaN = missing; titles empty where
        missing. Shape (n, families)."""
        return self.combine(*self.scores(inputs, artists, titles))

    def scores(
        self, inputs: Floats, artists: Sequence[Sequence[str]], titles: Sequence[str]
    ) -> tuple[Scores, NDArray[np.int64]]:
        """Return the scores of the BASE_MODELS and the evidence kind of each track (n,).

        A title is read only where no artist is known.
        """
        features, known = self.item_features(inputs, artists)
        read = ["" if met else title for met, title in zip(known, titles, strict=True)]
        prior, said = self.prior_scores(artists), self.title_scores(read)
        case = _evidence_kind(known, said)
        return (self.artist_scores(features), self.tree_scores(inputs, prior, said, case), prior, said), case

    def combine(self, scores: Scores, case: NDArray[np.int64]) -> Floats:
        """The calibrated average of the members' scores, each (n, families)."""
        weights, biases, platt = (each[case] for each in (self.weights, self.biases, self.platt))
        odds = log_odds(softmax(sum(weights[:, [i]] * each for i, each in enumerate(scores)) + biases, axis=1))
        return np.asarray(expit(platt[:, :1] * odds + platt[:, 1:]), np.float32)

    def tree_scores(self, inputs: Floats, prior: Floats, said: Floats, case: NDArray[np.int64]) -> Floats:
        """XGBoost's log probabilities. Shape (n, families)."""
        features = self.tree_features(inputs, prior, said, case)
        return np.log(
            np.maximum(self.booster.predict_proba(features, base_margin=_base_margin(prior, said, case)), FLOOR)
        )

    def tree_features(self, inputs: Floats, prior: Floats, said: Floats, case: NDArray[np.int64]) -> Floats:
        """What XGBoost sees: inputs clipped, energy * valence, tempo / (1 + |loudness|), the artist's `prior` and what
        the title `said` (n, families), the `case` (n,). Shape (n, 18 + 2 families)."""
        clipped = np.clip(inputs, self.low, self.high)
        mix = clipped[:, ENERGY] * clipped[:, VALENCE], clipped[:, TEMPO] / (1 + np.abs(clipped[:, LOUDNESS]))
        return np.column_stack([clipped, *mix, prior, said, case]).astype(np.float32)

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
                row[:] = ngram_logits(Keys(self.grams), self.gram_weights, [artist_ngrams(name) for name in names])
        return found

    def title_scores(self, titles: Sequence[str]) -> Floats:
        """What the letters of titles say; 0 without any. Shape (n, families)."""
        grams = Keys(self.grams)
        return np.array([ngram_logits(grams, self.gram_weights, [title_ngrams(title)]) for title in titles])

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
        array_store.save(path, {name: value for name, value in vars(self).items() if name != "booster"})
        (path / "booster.ubj").write_bytes(self.booster.get_booster().save_raw("ubj"))

    @classmethod
    def load(cls, path: Path) -> "GenreModel":
        """Read a model that `save` wrote."""
        booster = XGBClassifier()
        booster.load_model(path / "booster.ubj")
        return cls(booster=booster, **array_store.load(path))


def log_odds(probability: Floats) -> Floats:
    """log(p / (1 - p)), p kept `FLOOR` away from 0 and 1."""
    kept = np.clip(probability, FLOOR, 1 - FLOOR)
    return np.asarray(np.log(kept) - np.log(1 - kept))


def train(catalogue: Tracks, settings: recipe.Genre, seed: int) -> tuple[GenreModel, dict[str, Any]]:
    """Train on 80 % of the recordings (by default), calibrate on 10 %, measure on the rest."""
    parts = split.assign(len(catalogue), settings.validation, settings.test, seed)
    model = fit(catalogue, parts, settings, seed)
    return model, _measure(model, catalogue, *(np.flatnonzero(parts == part) for part in (split.TRAIN, split.TEST)))


def fit(catalogue: Tracks, parts: NDArray[np.int8], settings: recipe.Genre, seed: int) -> GenreModel:
    """Train on the recordings that are of TRAIN by `parts` (n,), calibrate on those of VALIDATION."""
    train_rows, validation = (np.flatnonzero(parts == part) for part in (split.TRAIN, split.VALIDATION))
    inputs, truth = catalogue.inputs, catalogue.families
    learned, titles = catalogue.texts(train_rows)
    primary = catalogue.primary_artists()
    weight = _artist_weight(primary, parts != split.TEST)
    taught, worth, alpha = truth[train_rows], weight[train_rows], settings.letter_alpha
    names = _spellings(learned)
    base = _fit_preprocessing(inputs[train_rows], names, titles, settings)
    progress.say("genre: letters")
    grams, share = Keys(base["grams"]), taught / taught.sum(axis=1, keepdims=True)
    given = ngrams.read(grams, learned, titles)
    base["gram_weights"] = ngrams.weights(given, taught, worth, alpha, seed)
    unmet = ngrams.out_of_fold_logits(given, learned, [primary[row] for row in train_rows], taught, worth, alpha, seed)
    credited = _credits(Keys(base["artists"]), learned)
    said = ngrams.features(grams, ngrams.of_names([[names[key.decode()]] for key in base["artists"].tolist()]))
    base["artist_prior"] = _artist_prior(credited, share, said @ base["gram_weights"], settings.artist_prior)
    model = _fit_lightfm(base, inputs[train_rows], learned, taught, settings, seed)
    progress.say("genre: XGBoost")
    prior, known = _leave_one_out_prior(credited, share, unmet[0], settings.artist_prior)
    _fit_booster(model, inputs[train_rows], prior, known, unmet, taught, worth, settings, seed)
    # The letters of a name that was learned from say more than those of others do: hidden ones must be others.
    asked = catalogue.texts(validation)
    met = {artist_key(name) for each in asked[0] for name in each}
    apart = np.flatnonzero([met.isdisjoint(artist_key(name) for name in each) for each in learned])
    others = ngrams.weights((given[0][apart], given[1][apart]), taught[apart], worth[apart], alpha, seed)
    return _calibrate(model, others, inputs[validation], *asked, truth[validation], weight[validation])


def predict_test_split(
    model: GenreModel, catalogue: Tracks, settings: recipe.Genre, seed: int
) -> tuple[Floats, metrics.Truth]:
    """Confidence and families (n, families) of the recordings of the test part that `train` left out with this seed."""
    test = np.flatnonzero(split.assign(len(catalogue), settings.validation, settings.test, seed) == split.TEST)
    return model.confidence(catalogue.inputs[test], *catalogue.texts(test)), catalogue.families[test]


def _artist_weight(artists: list[str], learned: NDArray[np.bool_]) -> Floats:
    """Weight of each recording by its primary artist: all that are `learned` (n,) of one weigh as much as the root of
    their number. Who is unknown when asked for has few recordings, as a rule. Shape (n,)."""
    codes = np.unique(artists, return_inverse=True)[1]
    counts = np.bincount(codes[learned], minlength=codes.max() + 1)
    return np.asarray(1 / np.sqrt(np.maximum(counts, 1))[codes], np.float32)


def _evidence_kind(known: NDArray[np.bool_], said: Floats) -> NDArray[np.int64]:
    """KNOWN where an artist is `known` (n,), else TITLED where the title `said` (n, families) something. Shape (n,)."""
    return np.where(known, KNOWN, np.where(said.any(axis=1), TITLED, UNKNOWN))


def _base_margin(prior: Floats, said: Floats, case: NDArray[np.int64]) -> Floats:
    """The margins that XGBoost's trees add to: the artist's `prior` and what the title `said`. Shape (n, families)."""
    return np.asarray(np.array(PRIOR_MARGIN)[case][:, None] * prior + TITLE_MARGIN * said, np.float32)


def _spellings(names: list[list[str]]) -> dict[str, str]:
    """A name, the first, of each artist key."""
    found: dict[str, str] = {}
    for each in names:
        for name in each:
            found.setdefault(artist_key(name), name)
    found.pop("", None)
    return found


def _fit_preprocessing(
    inputs: Floats, names: dict[str, str], titles: list[str], settings: recipe.Genre
) -> dict[str, Any]:
    quarter, three = np.quantile(inputs, [0.25, 0.75], axis=0)
    clipped = np.isin(INPUT_NAMES, CLIPPED)
    reach = settings.iqr * (three - quarter)
    edges = np.full((inputs.shape[1], settings.bins - 1), np.inf, np.float32)
    for column, values in enumerate(inputs.T):
        cuts = np.unique(np.quantile(values, np.linspace(0, 1, settings.bins + 1)[1:-1]).astype(np.float32))
        edges[column, : len(cuts)] = cuts
    return {
        "artists": np.array([key.encode() for key in sorted(names)]),
        "grams": ngrams.vocabulary(list(names.values()), titles),
        "low": np.where(clipped, quarter - reach, -np.inf).astype(np.float32),
        "high": np.where(clipped, three + reach, np.inf).astype(np.float32),
        "edges": edges,
        "bin_weight": np.float32(settings.bin_weight),
    }


@dataclass(frozen=True)
class _ArtistCredits:
    """Which tracks are of which known artists, in the order of the tracks and of their names; each (credits,)."""

    tracks: NDArray[np.int64]
    artists: NDArray[np.int64]
    parts: Floats  # what the track counts for the artist: 1 for its first, `FEATURED_ARTIST_WEIGHT` for others
    number: int  # of artists


def _credits(keys: Keys, names: list[list[str]]) -> _ArtistCredits:
    found = [keys.find([artist_key(name) for name in each]) for each in names]
    tracks, places = np.repeat(np.arange(len(names)), [len(each) for each in found]), np.concatenate(found)
    parts, met = np.where(np.diff(tracks, prepend=-1) > 0, 1, FEATURED_ARTIST_WEIGHT), places != ABSENT
    return _ArtistCredits(tracks[met], places[met], parts[met], len(keys.sorted))


def _artist_prior(credited: _ArtistCredits, share: Floats, said: Floats, strength: float) -> Floats:
    """Logarithm of the share of each family among an artist's training tracks, which have the `share` (n, families), as
    if there were `strength` more tracks, shared as the name `said` (artists, families). Shape (artists, families)."""
    return _log_share(_counts(credited, share), said, strength)


def _leave_one_out_prior(
    credited: _ArtistCredits, share: Floats, said: Floats, strength: float
) -> tuple[Floats, NDArray[np.bool_]]:
    """The prior of each training track as if it had not been learned from, and whether one of its artists would still
    be known. Where none would, it is what the names `said` (n, families) to one who never met them. Shapes
    (n, families) and (n,)."""
    often = np.bincount(credited.artists, minlength=credited.number)[credited.artists] > 1
    tracks, first = np.unique(credited.tracks[often], return_index=True)
    place = np.flatnonzero(often)[first]
    others = _counts(credited, share)[credited.artists[place]] - credited.parts[place, None] * share[tracks]
    prior, known = np.array(said, np.float32), np.isin(np.arange(len(share)), tracks)
    prior[tracks] = _log_share(np.maximum(others, 0), said[tracks], strength)
    return prior, known


def _counts(credited: _ArtistCredits, share: Floats) -> NDArray[np.float64]:
    counts = np.zeros((credited.number, share.shape[1]))
    np.add.at(counts, credited.artists, credited.parts[:, None] * share[credited.tracks])
    return counts


def _log_share(counts: NDArray[np.float64], said: Floats, strength: float) -> Floats:
    shares = counts + strength * softmax(said, axis=1)
    return np.log(np.maximum(shares / shares.sum(axis=1, keepdims=True), FLOOR)).astype(np.float32)


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


def _fit_lightfm(
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
        weights=np.full((3, len(BASE_MODELS)), 0.5, np.float32),
        biases=np.zeros((3, families), np.float32),
        platt=np.tile(np.array([1, 0], np.float32), (3, 1)),
        **base,
    )


def _fit_booster(
    model: GenreModel,
    inputs: Floats,
    prior: Floats,
    known: NDArray[np.bool_],
    unmet: tuple[Floats, Floats],
    truth: metrics.Truth,
    weight: Floats,
    settings: recipe.Genre,
    seed: int,
) -> None:
    """Each track is seen with its artist's `prior` (n, families), but for itself, and with its title where none is
    `known` (n,) then. Part of them are seen once more as of strangers, who weigh the `weight` (n,) of their artists:
    with what `unmet` names and titles say, some without a title. A track with several families is a row of each,
    sharing its weight. The trees add to what the artist and the title say: all that they learn is where that is
    wrong."""
    rng = np.random.default_rng(seed)
    again = np.flatnonzero(rng.random(len(inputs)) < settings.stranger)
    bare = rng.random(len(again)) < NO_TITLE_SHARE
    said = np.vstack([np.where(known[:, None], 0, unmet[1]), np.where(bare[:, None], 0, unmet[1][again])])
    rows = np.concatenate([np.arange(len(inputs)), again])
    case = _evidence_kind(np.concatenate([known, np.zeros(len(again), bool)]), said)
    prior = np.vstack([prior, unmet[0][again]])
    features, lean = model.tree_features(inputs[rows], prior, said, case), _base_margin(prior, said, case)
    weights = np.concatenate([np.ones(len(inputs)), weight[again] / weight[again].mean() if len(again) else []])
    places, families = np.nonzero(truth[rows])
    model.booster.set_params(
        objective="multi:softprob",
        max_depth=settings.max_depth,
        max_bin=settings.max_bin,
        learning_rate=settings.learning_rate,
        n_estimators=settings.n_estimators,
        subsample=settings.subsample,
        colsample_bytree=settings.colsample_bytree,
        multi_strategy=settings.multi_strategy,
        tree_method="hist",
        base_score=0.5,  # the same for all families, which says nothing: the margins that it starts from say it all
        random_state=seed,
    )
    shared = (weights / truth[rows].sum(axis=1))[places]
    model.booster.fit(features[places], families, sample_weight=shared, base_margin=lean[places])


def _calibrate(
    model: GenreModel,
    other_weights: Floats,
    inputs: Floats,
    names: list[list[str]],
    titles: list[str],
    truth: metrics.Truth,
    weight: Floats,
) -> GenreModel:
    """Fit by maximum likelihood: KNOWN on the tracks with known artists, the others on all tracks, their artists hidden
    and their names and titles read by `other_weights`, which never met them; UNKNOWN without the titles. For these two
    tracks have the `weight` (n,) of their artists."""
    hidden, _ = model.item_features(inputs, [[] for _ in names])
    features, known = model.item_features(inputs, names)
    strange, read = (each @ other_weights for each in ngrams.read(Keys(model.grams), names, titles))
    nothing, strangers = np.zeros(truth.shape, np.float32), model.artist_scores(hidden)

    def scores(artists: Floats, met: bool, prior: Floats, said: Floats) -> Scores:
        case = _evidence_kind(np.full(len(inputs), met), said)
        return artists, model.tree_scores(inputs, prior, said, case), prior, said

    cases: dict[int, Scores] = {
        UNKNOWN: scores(strangers, False, strange, nothing),
        KNOWN: scores(model.artist_scores(features), True, model.prior_scores(names), nothing),
        TITLED: scores(strangers, False, strange, read),
    }
    share = truth / truth.sum(axis=1, keepdims=True)
    hidden_share = share * weight[:, None]
    targets = {UNKNOWN: hidden_share, KNOWN: share * known[:, None], TITLED: hidden_share}
    if known.sum() < MIN_CALIBRATION_ROWS:  # too few known artists to fit to: they are served like the others
        cases[KNOWN], targets[KNOWN] = cases[UNKNOWN], targets[UNKNOWN]
    fitted = [_fit_calibration(cases[case], truth, targets[case]) for case in sorted(cases)]
    weights, biases, platt = (np.stack(each).astype(np.float32) for each in zip(*fitted, strict=True))
    return GenreModel(**(vars(model) | {"weights": weights, "biases": biases, "platt": platt}))


def _fit_calibration(scores: Scores, truth: metrics.Truth, target: Floats) -> tuple[NDArray[Any], ...]:
    """Weight of each member (members,), biases (families,), slope and intercept (2,). `target` (n, families) is what
    each track weighs in each of its families; tracks that weigh nothing are left out."""
    kept = target.any(axis=1)
    scores, truth, target = [each[kept] for each in scores], truth[kept], target[kept] / target.sum()
    members, families = len(scores), truth.shape[1]
    total = target.sum(axis=1, keepdims=True)

    def loss(x: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        logs = log_softmax(sum(x[i] * each for i, each in enumerate(scores)) + x[members:], axis=1)
        error = np.exp(logs) * total - target
        slope = np.concatenate([[(error * each).sum() for each in scores], error.sum(axis=0)])
        # A hint of ridge keeps the biases of families that validation hardly holds near 0.
        slope[members:] += 2e-4 * x[members:]
        return float(-(target * logs).sum() + 1e-4 * (x[members:] ** 2).sum()), slope

    start = np.concatenate([INITIAL_WEIGHTS, np.zeros(families)])
    bounds = [*[(0, None)] * members, *[(None, None)] * families]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    odds = log_odds(softmax(sum(found[i] * each for i, each in enumerate(scores)) + found[members:], axis=1))
    platt = LogisticRegression(C=1e6).fit(odds.reshape(-1, 1), truth.ravel())
    return found[:members], found[members:], np.array([platt.coef_[0, 0], platt.intercept_[0]])


def _measure(
    model: GenreModel, catalogue: Tracks, train_rows: NDArray[np.int64], test: NDArray[np.int64]
) -> dict[str, Any]:
    truth = catalogue.families[test]
    scores, case = model.scores(catalogue.inputs[test], *catalogue.texts(test))
    confidence, known = model.combine(scores, case), case == KNOWN
    lookup = artist_lookup(catalogue.primary_artists(), catalogue.families, train_rows, test)
    alone = model.combine([scores[0], *(np.zeros_like(each) for each in scores[1:])], case)
    card: dict[str, Any] = {f"hit_at_{k}": metrics.hit_at(confidence, truth, k) for k in (1, 3, 5)}
    card["ece"] = metrics.calibration_error(confidence, truth)
    card["macro_f1"] = metrics.macro_f1(confidence, truth)
    answers = {"artist_lookup": lookup, "xgboost_alone": scores[1], "lightfm_alone": alone}
    for label, kept in (("all_artists", known | True), ("known_artists", known), ("unknown_artists", ~known)):
        if kept.any():
            card[label] = {
                "recordings": int(kept.sum()),
                "macro_f1": metrics.macro_f1(confidence[kept], truth[kept]),
                "baselines": {name: metrics.macro_f1(each[kept], truth[kept]) for name, each in answers.items()},
            }
    card["weights"] = {
        label: dict(zip(BASE_MODELS, model.weights[kind].tolist(), strict=True))
        for label, kind in (
            ("known_artists", KNOWN),
            ("unknown_artists", UNKNOWN),
            ("unknown_artists_with_title", TITLED),
        )
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


def _train_part(training: Training) -> tuple[GenreModel, dict[str, Any]]:
    model, card = train(training.catalogue, training.recipe.genre, training.recipe.seed)
    return model, {"genre": card}


QUALITY_KEYS = (
    keys("genre", ("macro_f1", "ece", "hit_at_1", "hit_at_3", "hit_at_5"))
    | keys("genre", ("all_artists", *ARTIST_GROUPS), ("recordings", "macro_f1"))
    | keys("genre", ("all_artists", *ARTIST_GROUPS), "baselines", ("artist_lookup", "xgboost_alone", "lightfm_alone"))
    | keys("genre.weights", (*ARTIST_GROUPS, "unknown_artists_with_title"), BASE_MODELS)
)
PART = Part("genre", _train_part, lambda path, recipe: GenreModel.load(path), QUALITY_KEYS)
