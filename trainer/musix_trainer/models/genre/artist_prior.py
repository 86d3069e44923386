"""Artist prior: log shares of the genre families among an artist's training tracks, smoothed by its name."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from musix_runtime.models.arrays import ABSENT, Floats, Keys
from musix_runtime.models.genre import artist_key
from musix_trainer.models.genre.calibration import FLOOR

FEATURED_ARTIST_WEIGHT = 0.2  # what a track counts for each artist after the first, which it counts 1 for


@dataclass(frozen=True)
class ArtistCredits:
    """Pairs of a track and one of its known artists, in the order of tracks and of their names; each (credits,)."""

    tracks: NDArray[np.int64]
    artists: NDArray[np.int64]
    weights: Floats  # 1 for the track's first artist, `FEATURED_ARTIST_WEIGHT` for the others
    n_artists: int


def find_credits(keys: Keys, artists: list[list[str]]) -> ArtistCredits:
    """Return the credits of the artists in `keys` for tracks with these artist names."""
    positions_of = [keys.find([artist_key(name) for name in names]) for names in artists]
    tracks = np.repeat(np.arange(len(artists)), [len(each) for each in positions_of])
    positions = np.concatenate(positions_of)
    weights = np.where(np.diff(tracks, prepend=-1) > 0, 1, FEATURED_ARTIST_WEIGHT)
    known = positions != ABSENT
    return ArtistCredits(tracks[known], positions[known], weights[known], len(keys.sorted))


def fit_prior(artist_credits: ArtistCredits, labels: Floats, name_logits: Floats, strength: float) -> Floats:
    """Return the log share of each family among each artist's tracks, whose label distributions are `labels`
    (n, families).

    The softmax of the name logits (artists, families) counts as `strength` further tracks. Shape (artists, families).
    """
    return _log_shares(_counts(artist_credits, labels), name_logits, strength)


def leave_one_out_prior(
    artist_credits: ArtistCredits, labels: Floats, name_logits: Floats, strength: float
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the prior of each training track as if the track were not in training, and whether one of its artists
    would still be known.

    Where none would be, the prior is the track's row of the out-of-fold name logits (n, families).
    Shapes (n, families) and (n,).
    """
    repeated = np.bincount(artist_credits.artists, minlength=artist_credits.n_artists)[artist_credits.artists] > 1
    tracks, first = np.unique(artist_credits.tracks[repeated], return_index=True)
    credit = np.flatnonzero(repeated)[first]
    others = (
        _counts(artist_credits, labels)[artist_credits.artists[credit]]
        - artist_credits.weights[credit, None] * labels[tracks]
    )
    prior, known = np.array(name_logits, np.float32), np.isin(np.arange(len(labels)), tracks)
    prior[tracks] = _log_shares(np.maximum(others, 0), name_logits[tracks], strength)
    return prior, known


def _counts(artist_credits: ArtistCredits, labels: Floats) -> NDArray[np.float64]:
    counts = np.zeros((artist_credits.n_artists, labels.shape[1]))
    np.add.at(counts, artist_credits.artists, artist_credits.weights[:, None] * labels[artist_credits.tracks])
    return counts


def _log_shares(counts: NDArray[np.float64], name_logits: Floats, strength: float) -> Floats:
    smoothed = counts + strength * softmax(name_logits, axis=1)
    return np.log(np.maximum(smoothed / smoothed.sum(axis=1, keepdims=True), FLOOR)).astype(np.float32)
