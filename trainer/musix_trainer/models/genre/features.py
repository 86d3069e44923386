"""Features of the genre ensemble: clipped and binned inputs, artists, and what XGBoost sees of a track."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack

from musix_runtime.models.arrays import ABSENT, Floats, Keys
from musix_runtime.models.features import AUDIO, INPUT_NAMES
from musix_runtime.models.genre import artist_key
from musix_trainer import recipe
from musix_trainer.models.genre import ngrams

CLIPPED = ("loudness", "tempo", "duration_ms")  # inputs without a natural bound; the others are shares of 0..1
ENERGY, VALENCE = INPUT_NAMES.index("energy"), INPUT_NAMES.index("valence")
TEMPO, LOUDNESS = INPUT_NAMES.index("tempo"), INPUT_NAMES.index("loudness")
PRIOR_MARGIN = (0.5, 1.0, 0.5)  # weight of the artist prior in XGBoost's base margin, for each `EvidenceKind`
AUDIO_COLUMNS = [*range(len(AUDIO)), len(INPUT_NAMES), len(INPUT_NAMES) + 1]  # of `sound_features`, without the extras
TITLE_MARGIN = 0.5  # weight of the title logits in it


@dataclass(frozen=True)
class Preprocessing:
    """What is fitted to the training tracks before any base model. The fields are those of `GenreModel`."""

    artists: NDArray[np.bytes_]
    grams: NDArray[np.bytes_]
    low: Floats
    high: Floats
    edges: Floats
    bin_weight: NDArray[np.float32]


def fit_preprocessing(
    inputs: Floats, artist_names: dict[str, str], titles: list[str], settings: recipe.Genre
) -> Preprocessing:
    """Fit clipping bounds, quantile bins and vocabularies to inputs (n, 15), artist names by key, and titles."""
    first, third = np.quantile(inputs, [0.25, 0.75], axis=0)
    clipped = np.isin(INPUT_NAMES, CLIPPED)
    margin = settings.iqr * (third - first)
    edges = np.full((inputs.shape[1], settings.bins - 1), np.inf, np.float32)
    for column, values in enumerate(inputs.T):
        cuts = np.unique(np.quantile(values, np.linspace(0, 1, settings.bins + 1)[1:-1]).astype(np.float32))
        edges[column, : len(cuts)] = cuts
    return Preprocessing(
        artists=np.array([key.encode() for key in sorted(artist_names)], np.bytes_),
        grams=ngrams.vocabulary(list(artist_names.values()), titles),
        low=np.where(clipped, first - margin, -np.inf).astype(np.float32),
        high=np.where(clipped, third + margin, np.inf).astype(np.float32),
        edges=edges,
        bin_weight=np.array(settings.bin_weight, np.float32),
    )


def base_margin(prior: Floats, title_logits: Floats, kind: NDArray[np.int64]) -> Floats:
    """Return the margins that XGBoost's trees are added to. Shape (n, families)."""
    return np.asarray(np.array(PRIOR_MARGIN)[kind][:, None] * prior + TITLE_MARGIN * title_logits, np.float32)


def tree_features(
    inputs: Floats, low: Floats, high: Floats, prior: Floats, title_logits: Floats, kind: NDArray[np.int64]
) -> Floats:
    """Return XGBoost's features: those of the inputs (n, 15), artist prior and title logits (n, families), and evidence
    kind (n,). Shape (n, 18 + 2 families)."""
    return np.column_stack([sound_features(inputs, low, high), prior, title_logits, kind]).astype(np.float32)


def title_features(sound: Floats, title_logits: Floats) -> Floats:
    """Return the features of the model that reads titles. Shape (n, 17 + families)."""
    return np.hstack([sound, title_logits]).astype(np.float32)


def audio_features(sound: Floats) -> Floats:
    """Return the features of the model that hears the 12 audio features alone. Shape (n, 14)."""
    return np.ascontiguousarray(sound[:, AUDIO_COLUMNS])


def sound_features(inputs: Floats, low: Floats, high: Floats) -> Floats:
    """Return the features of inputs (n, 15): clipped to `low` and `high`, energy * valence, tempo / (1 + |loudness|).
    Shape (n, 17)."""
    clipped = np.clip(inputs, low, high)
    products = clipped[:, ENERGY] * clipped[:, VALENCE], clipped[:, TEMPO] / (1 + np.abs(clipped[:, LOUDNESS]))
    return np.column_stack([clipped, *products]).astype(np.float32)


def lightfm_features(
    artist_keys: Keys, edges: Floats, bin_weight: float, inputs: Floats, artists: Sequence[Sequence[str]]
) -> tuple[csr_matrix, NDArray[np.bool_]]:
    """Return LightFM's item features and whether an artist of each track is known. Shapes (n, items) and (n,)."""
    artist_columns, known = artist_features(artist_keys, artists)
    bin_columns = bin_features(edges, inputs, bin_weight)
    return hstack([artist_columns, bin_columns], format="csr", dtype=np.float32), known


def artist_features(keys: Keys, artists: Sequence[Sequence[str]]) -> tuple[csr_matrix, NDArray[np.bool_]]:
    """Return a column for each artist, and whether an artist of each track is known (n,).

    The known artists of a track share a weight of 1; without any, column 0, the unknown artist, has it.
    """
    positions = [keys.find([artist_key(name) for name in names]) for names in artists]
    columns = [each[each != ABSENT] + 1 for each in positions]
    known = np.array([len(each) > 0 for each in columns], bool)
    columns = [each if len(each) else np.zeros(1, np.int64) for each in columns]
    rows = np.repeat(np.arange(len(columns)), [len(each) for each in columns])
    values = np.concatenate([np.full(len(each), 1 / len(each)) for each in columns])
    shape = (len(columns), len(keys.sorted) + 1)
    return csr_matrix((values, (rows, np.concatenate(columns))), shape=shape, dtype=np.float32), known


def bin_features(edges: Floats, inputs: Floats, weight: float) -> csr_matrix:
    """Return a column for each bin of each input, with the `weight`. A missing input (NaN) is in no bin."""
    bins = edges.shape[1] + 1
    columns = (inputs[:, :, None] >= edges).sum(axis=2) + np.arange(inputs.shape[1]) * bins
    rows, present = np.nonzero(~np.isnan(inputs))
    values = np.full(len(rows), weight, np.float32)
    return csr_matrix((values, (rows, columns[rows, present])), shape=(len(inputs), bins * inputs.shape[1]))
