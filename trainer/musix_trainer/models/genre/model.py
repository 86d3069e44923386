"""The trained genre ensemble, and the folder of a run that keeps it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from xgboost import XGBClassifier

from musix_runtime.models.arrays import ABSENT, Floats, Keys
from musix_runtime.models.genre import artist_key, artist_ngrams, evidence, ngram_logits, title_ngrams
from musix_trainer import array_store
from musix_trainer.models.genre import features
from musix_trainer.models.genre.calibration import FLOOR, Scores, combine
from musix_trainer.models.genre.evidence import calibration_number, evidence_kind, graph_case
from musix_trainer.models.lightfm import lightfm

BOOSTERS = ("booster", "titles", "sound", "audio")  # fields that XGBoost writes


@dataclass(frozen=True)
class GenreModel:
    """The trained ensemble.

    In LightFM families are the users and tracks the items. Rows of `item_factors`: the unknown artist, the artists in
    the order of their keys, then the bins of each input. `low` and `high` (15,) clip the inputs; `edges` (15, bins-1)
    are the bin edges, padded with infinity. The calibration has a row for each kind of evidence:
    probabilities = softmax of the weighted sum of the base models' scores (log probabilities in XGBoost's case) and
    the bias of the family. They share one track among families; the confidence that a family is among its labels is
    sigmoid(slope * log-odds + intercept) of them (Platt 1999).
    """

    booster: XGBClassifier
    titles: XGBClassifier  # of the inputs and the title
    sound: XGBClassifier  # of the inputs alone
    audio: XGBClassifier  # of the 12 audio features alone
    artists: NDArray[np.bytes_]
    item_factors: Floats
    item_biases: Floats
    family_factors: Floats
    family_biases: Floats
    low: Floats
    high: Floats
    edges: Floats
    bin_weight: NDArray[np.float32]  # (), of a bin in LightFM's features; an artist has 1
    weights: Floats  # (15, 5): calibrations by `BASE_MODELS`
    biases: Floats  # (15, families)
    platt: Floats  # (15, 2): slope, intercept
    grams: NDArray[np.bytes_]  # character n-grams of names and titles
    gram_weights: Floats  # (grams, families)
    artist_prior: Floats  # (artists, families): log share of each family among a known artist's tracks
    # confidence of the test part, by the model that was measured, which had not learned from it
    held_out: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))

    def confidence(self, inputs: Floats, artists: Sequence[Sequence[str]], titles: Sequence[str]) -> Floats:
        """Return the confidence of each family, computed by the native libraries.

        `inputs` (n, 15), NaN = missing; titles empty where missing. Shape (n, families).
        """
        return self.predict(inputs, artists, titles)[0]

    def predict(
        self, inputs: Floats, artists: Sequence[Sequence[str]], titles: Sequence[str]
    ) -> tuple[Floats, list[list[str]]]:
        """Return the confidence (n, families), and the evidence that each is based on, as the runtime does."""
        scores, calibration = self.scores(inputs, artists, titles)
        return self.combine(scores, calibration), evidence(inputs, graph_case(calibration))

    def scores(
        self, inputs: Floats, artists: Sequence[Sequence[str]], titles: Sequence[str]
    ) -> tuple[Scores, NDArray[np.int64]]:
        """Return the scores of the base models and the number of each track's calibration (n,).

        A title is read only where no artist is known.
        """
        item_features, known = self.item_features(inputs, artists)
        titles_read = ["" if has_artist else title for has_artist, title in zip(known, titles, strict=True)]
        prior, title_logits = self.prior_scores(artists), self.title_scores(titles_read)
        kind = evidence_kind(known, title_logits)
        tree_scores = self.tree_scores(inputs, prior, title_logits, kind)
        scores = self.artist_scores(item_features), tree_scores, *self.nameless_scores(inputs, title_logits)
        return scores, calibration_number(kind, prior, inputs)

    def combine(self, scores: Scores, calibration: NDArray[np.int64]) -> Floats:
        """Return the calibrated average of the base models' scores. Shape (n, families)."""
        return combine(scores, self.weights[calibration], self.biases[calibration], self.platt[calibration])

    def tree_scores(self, inputs: Floats, prior: Floats, title_logits: Floats, kind: NDArray[np.int64]) -> Floats:
        """Return XGBoost's log probabilities. Shape (n, families)."""
        seen, margin = self.tree_inputs(inputs, prior, title_logits, kind)
        return np.log(np.maximum(self.booster.predict_proba(seen, base_margin=margin), FLOOR))

    def tree_inputs(
        self, inputs: Floats, prior: Floats, title_logits: Floats, kind: NDArray[np.int64]
    ) -> tuple[Floats, Floats]:
        """Return the features and the base margins (n, families) of XGBoost."""
        seen = features.tree_features(inputs, self.low, self.high, prior, title_logits, kind)
        return seen, features.base_margin(prior, title_logits, kind)

    def nameless_scores(self, inputs: Floats, title_logits: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the log probabilities of the models that read no artist, in the order of `BASE_MODELS`. Shapes
        (n, families)."""
        shares = (
            getattr(self, name).predict_proba(seen, base_margin=margin)
            for name, (seen, margin) in self.nameless_inputs(inputs, title_logits).items()
        )
        title_scores, sound_scores, audio_scores = (np.log(np.maximum(each, FLOOR)) for each in shares)
        return title_scores, sound_scores, audio_scores

    def nameless_inputs(self, inputs: Floats, title_logits: Floats) -> dict[str, tuple[Floats, Floats | None]]:
        """Return the features and the base margins (n, families) of the models that read no artist, by name in the
        order of `BASE_MODELS`."""
        sound = features.sound_features(inputs, self.low, self.high)
        margin = (features.TITLE_MARGIN * title_logits).astype(np.float32)
        return {
            "titles": (features.title_features(sound, title_logits), margin),
            "sound": (sound, None),
            "audio": (features.audio_features(sound), None),
        }

    def prior_scores(self, artists: Sequence[Sequence[str]]) -> Floats:
        """Return the prior of each track's first known artist; without any, the logits of the names; without names, 0.
        Shape (n, families)."""
        keys = Keys(self.artists)
        names_of = ([artist_ngrams(name) for name in names] for names in artists)
        scores = ngram_logits(Keys(self.grams), self.gram_weights, names_of)
        for row, names in zip(scores, artists, strict=True):
            positions = keys.find([artist_key(name) for name in names])
            known = positions[positions != ABSENT]
            if len(known):
                row[:] = self.artist_prior[known[0]]
        return scores

    def title_scores(self, titles: Sequence[str]) -> Floats:
        """Return the logits of the titles' n-grams; 0 without any. Shape (n, families)."""
        return ngram_logits(Keys(self.grams), self.gram_weights, ([title_ngrams(title)] for title in titles))

    def artist_scores(self, item_features: csr_matrix) -> Floats:
        """Return LightFM's scores. Shape (n, families)."""
        model = lightfm(self.item_factors, self.item_biases, self.family_factors, self.family_biases)
        count, families = item_features.shape[0], len(self.family_biases)
        pairs = (
            np.tile(np.arange(families), count).astype(np.int32),
            np.repeat(np.arange(count), families).astype(np.int32),
        )
        scores = model.predict(*pairs, item_features=item_features, num_threads=1)
        return np.asarray(scores.reshape(count, families), np.float32)

    def item_features(self, inputs: Floats, artists: Sequence[Sequence[str]]) -> tuple[csr_matrix, NDArray[np.bool_]]:
        """Return LightFM's features of tracks, and whether an artist of each is known. Shapes (n, items) and (n,)."""
        return features.lightfm_features(Keys(self.artists), self.edges, float(self.bin_weight), inputs, artists)

    def save(self, path: Path) -> None:
        """Write the model into a new folder."""
        arrays = {name: value for name, value in vars(self).items() if name not in BOOSTERS}
        array_store.save(path, arrays)
        for name in BOOSTERS:
            (path / f"{name}.ubj").write_bytes(getattr(self, name).get_booster().save_raw("ubj"))

    @classmethod
    def load(cls, path: Path) -> "GenreModel":
        """Read a model that `save` wrote."""
        boosters = {name: XGBClassifier() for name in BOOSTERS}
        for name, booster in boosters.items():
            booster.load_model(path / f"{name}.ubj")
        return cls(**boosters, **array_store.load(path))
