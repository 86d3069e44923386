"""Artists: the primary artist of each track, its most popular tracks, and the artists that are heard together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from musix_runtime.bundle.manifest import MAX_ROWS
from musix_runtime.bundle.part import Array, Part
from musix_runtime.bundle.part_files import PartFiles
from musix_runtime.bundle.validation import Checks
from musix_runtime.models.arrays import Floats, RaggedRows, Rows, gather

SIMILAR_WEIGHT = 0.3  # of preference, for an artist like those in the profile
MAX_TRACKS = 60  # of one artist that are candidates
MAX_EXPANDED = 500  # artists of one profile, the most heard ones, whose similar artists count


@dataclass(frozen=True, slots=True)
class ArtistAffinities:
    """The affinities of the users of a batch to artists, for the pairs of user and artist that have any.

    `keys` (m,), ascending: number of the request times the number of artists, plus the artist. `heard` (m,): tracks of
    the artist in the profile. `own` (m,): root of their share of the profile; `similar` (m,): similarity of the artist
    to those in the profile, weighted by their shares. Both are in 0..1.
    """

    keys: Rows
    heard: Rows
    own: Floats
    similar: Floats


@dataclass(frozen=True)
class Artists:
    """The artists of the catalogue, numbered from 0.

    `track_artists` (tracks,) has the primary artist of each row, and `ranks` (tracks,) the rank of the row among the
    artist's tracks, 0 for the most popular one. `rows[offsets[i]:offsets[i + 1]]` are the tracks of artist i in this
    order. `similar` (artists, n) has the artists that each is heard together with, and `similarities` their weights.
    """

    track_artists: NDArray[np.int32]
    ranks: NDArray[np.int32]
    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]
    similar: NDArray[np.int32]
    similarities: Floats

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, rows: Rows) -> Rows:
        """Return the primary artist of each row. Same shape."""
        return gather(self.track_artists, rows).astype(np.int64)

    def affinities(self, profiles: RaggedRows) -> ArtistAffinities:
        """Return the affinities of users to the artists of their profiles, and to artists like these."""
        requests = np.arange(len(profiles.sizes)).repeat(profiles.sizes)
        plays = np.sort(requests * len(self) + gather(self.track_artists, profiles.values))
        starts = _starts(plays)
        own_keys, heard = plays[starts], np.diff(starts, append=len(plays))
        requests, artists = np.divmod(own_keys, len(self))
        shares = heard / profiles.sizes[requests]
        expanded = _most_heard(requests, heard)
        similar_keys = (own_keys - artists)[expanded, None] + gather(self.similar, artists[expanded])
        similar_shares = shares[expanded, None] * gather(self.similarities, artists[expanded])
        keys = np.concatenate([own_keys, similar_keys.ravel()])
        order = keys.argsort(kind="stable")
        keys = keys[order]
        starts = _starts(keys)
        similar = np.add.reduceat(np.concatenate([np.zeros(len(own_keys)), similar_shares.ravel()])[order], starts)
        keys = keys[starts]
        counts = np.zeros((2, len(keys)))
        counts[:, keys.searchsorted(own_keys)] = heard, np.sqrt(shares)
        return ArtistAffinities(
            keys, counts[0].astype(np.int64), counts[1].astype(np.float32), np.minimum(similar, 1).astype(np.float32)
        )

    def preferences(self, affinities: ArtistAffinities, rows: Rows) -> Floats:
        """Return the preference of each user for the tracks in `rows` (batch, n), in 0..1. Shape (batch, n).

        It is 1 - (1 - own)(1 - 0.3 similar), both divided by the root of 1 + the track's rank.
        """
        if not len(affinities.keys):
            return np.zeros(rows.shape, np.float32)
        keys = np.arange(len(rows))[:, None] * len(self) + gather(self.track_artists, rows)
        positions = np.minimum(affinities.keys.searchsorted(keys.ravel()), len(affinities.keys) - 1).reshape(keys.shape)
        decay = 1 / np.sqrt(1 + gather(self.ranks, rows).astype(np.float32))
        decay[affinities.keys[positions] != keys] = 0
        return _combined(affinities.own[positions] * decay, affinities.similar[positions] * decay)

    def kinship(self, heard: Rows, rows: Rows) -> Floats:
        """Return how much the artist of each heard track (batch, m) speaks for that of each of the `rows` (batch, n): 1
        for the same one, or else `SIMILAR_WEIGHT` of their similarity. Shape (batch, n, m)."""
        before, after = gather(self.track_artists, heard), gather(self.track_artists, rows)[:, :, None]
        columns = (0, 2, 1)  # the heard tracks last: long rows, which numpy compares and multiplies fastest
        like = np.ascontiguousarray(gather(self.similar, before).transpose(columns))
        weights = np.ascontiguousarray(gather(self.similarities, before).transpose(columns))
        alike = ((after[..., None] == like[:, None]) * weights[:, None]).max(axis=2, initial=0)
        return np.maximum(before[:, None] == after, np.float32(SIMILAR_WEIGHT) * alike)

    def candidates(self, affinities: ArtistAffinities, counts: Rows) -> Rows:
        """Return about `counts` (batch,) rows for each request, of the artists in proportion to their preference.

        Each artist's tracks come from the most popular one on, at most `MAX_TRACKS` beside as many as were heard. The
        rows are padded with the number of tracks. Shape (batch, n).
        """
        requests, artists = affinities.keys // len(self), affinities.keys % len(self)
        weights = _combined(affinities.own, affinities.similar).astype(np.float64)
        totals = np.bincount(requests, weights, len(counts))[requests]
        sizes = np.rint(counts[requests] * weights / np.maximum(totals, 1e-12)).astype(np.int64)
        sizes = np.minimum(sizes, MAX_TRACKS) + np.where(sizes > 0, np.minimum(affinities.heard, MAX_TRACKS), 0)
        starts = gather(self.offsets, artists)
        sizes = np.minimum(sizes, gather(self.offsets, artists + 1) - starts)
        before = sizes.cumsum() - sizes
        flat = np.arange(sizes.sum())
        rows = gather(self.rows, flat + (starts - before).repeat(sizes))
        per_request = np.bincount(requests, sizes, len(counts)).astype(np.int64)
        columns = flat - (per_request.cumsum() - per_request).repeat(per_request)
        out = np.full((len(counts), int(per_request.max(initial=0))), len(self.track_artists))
        out[requests.repeat(sizes), columns] = rows
        return out


def _starts(keys: Rows) -> Rows:
    """Return the positions at which another value than before begins in sorted keys (n,)."""
    different = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=different[1:])
    return different.nonzero()[0]


def _most_heard(requests: Rows, heard: Rows) -> Rows | slice:
    """Return the positions of the `MAX_EXPANDED` artists of each of the ascending `requests` that were heard most."""
    if len(requests) <= MAX_EXPANDED:
        return slice(None)
    order = np.lexsort((-heard, requests))
    ranks = np.arange(len(order)) - requests.searchsorted(requests)
    return np.sort(order[ranks < MAX_EXPANDED])


def _combined(own: Floats, similar: Floats) -> Floats:
    return 1 - (1 - own) * (1 - np.float32(SIMILAR_WEIGHT) * similar)


def _load(files: PartFiles) -> Artists:
    names = ("track_artists", "ranks", "offsets", "rows", "similar", "similarities")
    return Artists(*(files.array(name) for name in names))


def _validate(checks: Checks) -> None:
    checks.rows("track_artists", "primary_artists")
    checks.rows("rows", "tracks")
    checks.rows("similar", "primary_artists")
    checks.within("similarities", 0, 1)
    checks.offsets("offsets", checks.manifest.size("tracks"))
    artists, ranks, offsets, rows = (checks.array(name) for name in ("track_artists", "ranks", "offsets", "rows"))
    places = offsets[artists] + ranks
    if (ranks < 0).any() or (places >= offsets[artists + 1]).any() or (rows[places] != np.arange(len(rows))).any():
        raise checks.error("ranks", "the place of each track among those of its artist", "another place")


PART = Part(
    name="artists",
    load=_load,
    validate=_validate,
    arrays={
        "track_artists.npy": Array("<i4", ("tracks",)),
        "ranks.npy": Array("<i4", ("tracks",)),
        "offsets.npy": Array("<i8", ("primary_artists+1",)),
        "rows.npy": Array("<i4", ("tracks",)),
        "similar.npy": Array("<i4", ("primary_artists", "similar_artists")),
        "similarities.npy": Array("<f4", ("primary_artists", "similar_artists")),
    },
    counts={"primary_artists": range(1, MAX_ROWS), "similar_artists": range(1, 65)},
)
