"""Tracks table: the catalogue, with one row for each recording."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from musix_runtime.errors import TableError
from musix_runtime.models import features
from musix_runtime.models.arrays import Floats, Rows
from musix_runtime.models.catalog import strip_uri
from musix_runtime.models.genre import artist_key, normalize
from musix_trainer.data import families as genre_families
from musix_trainer.data.families import Families
from musix_trainer.data.tables import Column, Table, check, text_codes

SCHEMA = [
    Column("track_id", "text"),
    Column("track_name", "text"),
    Column("artists", "text"),
    Column("track_genre", "text"),
    *(Column(each.name, "number", each.low, each.high) for each in features.AUDIO),
    Column("popularity", "number", 0, 100),
    Column("duration_ms", "number", 0, 86_400_000),
    Column("explicit", "bool"),
    Column("release_date", "time", optional=True),
]

MIN_GENRE_SIZE = 20  # recordings of a family, so that training, validation and test each have some

MAX_SECONDS_APART = 3  # durations of the same recording under several ids
MAX_ARTISTS_OF_AUDIO = 3  # equal audio features under more artists are filled in, and identify nothing

_BRACKETS = re.compile(r"\([^)]*\)|\[[^\]]*\]")
_SUFFIX = re.compile(r" - .*$|\bfeat\b.*$", re.IGNORECASE)
# The number of a movement or part: "Sonata - II. Adagio", "Suite: 3. Air", "Song (Pt. 2)".
_PART = re.compile(r"[-:]\s*([ivxlc]+|\d+)\.\s|\b(?:part|pt\.?|no\.?|act)\s*([ivxlc]+|\d+)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Tracks:
    """Recordings in the order of their track ids.

    `frame` has track_id, track_name, artists, release_date (seconds, null when unknown); `ids` maps every track_id to
    its row; `inputs` (n, 15) are the raw inputs; `labels` are the names of the families that occur, and `families`
    (n, labels) is True where a recording is of a family. A recording may be of none.
    """

    frame: pl.DataFrame
    ids: pl.DataFrame
    inputs: Floats
    labels: list[str]
    families: NDArray[np.bool_]

    def __len__(self) -> int:
        return self.frame.height

    def artists(self) -> list[list[str]]:
        """Return the names of each recording's artists, the primary one first."""
        return [each.split(";") for each in self.frame["artists"]]

    def texts(self, rows: Rows) -> tuple[list[list[str]], list[str]]:
        """Return the names of the artists, the primary one first, and the titles of the rows."""
        selected = self.frame[rows]
        return [each.split(";") for each in selected["artists"]], selected["track_name"].to_list()

    def with_family(self) -> "Tracks":
        """Return the recordings that are of a family: those that genre is learned from and measured on."""
        rows = np.flatnonzero(self.families.any(axis=1))
        return self if len(rows) == len(self) else self.select(rows)

    def select(self, rows: Rows) -> "Tracks":
        """Return the recordings of ascending `rows`."""
        number = pl.DataFrame({"row": rows.astype(np.int64), "new": np.arange(len(rows))})
        ids = self.ids.with_columns(pl.col("row").cast(pl.Int64)).join(number, on="row").sort("track_id")
        renumbered = ids.select("track_id", pl.col("new").cast(self.ids.schema["row"]).alias("row"))
        return Tracks(self.frame[rows], renumbered, self.inputs[rows], self.labels, self.families[rows])

    def artist_keys(self) -> list[list[str]]:
        """Return the keys of each recording's artists, the primary one first."""
        return [[artist_key(name) or name for name in names] for names in self.artists()]

    def primary_artists(self) -> list[str]:
        """Return the key of each recording's primary artist."""
        return [artist_key(each[0]) or each[0] for each in self.artists()]

    @cached_property
    def artist_numbers(self) -> Rows:
        """The number of each recording's primary artist, in the order of their keys. Shape (n,)."""
        return text_codes(self.primary_artists())


def title_key(title: str) -> str:
    """Return the key by which titles are compared: without brackets, suffixes such as "- Remastered", and "feat."."""
    return normalize(_SUFFIX.sub("", _BRACKETS.sub(" ", title))) or normalize(title) or title


def recording_key(title: str, artists: str) -> str:
    """Return the key by which recordings are compared: of the title and the first of the artists, separated by `;`."""
    return f"{title_key(title)}\n{artist_key(artists.split(';')[0]) or artists}"


def recording_keys(frame: pl.DataFrame, title: str, artist: str) -> pl.Series:
    """Return the key of each row's recording, null where title or artist is missing."""
    if not {title, artist} <= set(frame.columns):
        return pl.Series([None] * frame.height, dtype=pl.String)
    names = zip(frame[title].cast(pl.String), frame[artist].cast(pl.String), strict=True)
    return pl.Series([recording_key(*each) if None not in each else None for each in names], dtype=pl.String)


def read_tracks(source: Table, families: Families | None = None) -> Tracks:
    """Check the table and merge its rows, first by track id, then by recording (`recordings`).

    A recording has the metadata of its most popular id, and the labels and ids of all. `families` are by default the
    shipped ones. Raises TableError.
    """
    families = families or genre_families.read()
    check(source, SCHEMA, "track_id")
    source.frame = source.frame.with_columns(pl.col("track_id").map_elements(strip_uri, return_dtype=pl.String))
    source.keep(pl.col("tempo") > 0, "failed audio analysis (tempo 0)")
    source.keep(pl.col("duration_ms") > 0, "no duration")
    by_id = _merge_ids(source, families)
    groups = recordings(by_id, by_id.select(pl.col(features.INPUT_NAMES).cast(pl.Float32)).to_numpy())
    by_id = by_id.with_columns(pl.Series("group", groups))
    best = by_id.sort(["popularity", "track_id"], descending=[True, False]).unique(
        "group", keep="first", maintain_order=True
    )
    best = best.sort("track_id").with_row_index("row")
    ids = (
        by_id.select("track_id", "group")
        .join(best.select("group", "row"), on="group")
        .select("track_id", "row")
        .sort("track_id")
    )
    labels = by_id.select("group", "track_genre").join(best.select("group", "row"), on="group").explode("track_genre")
    hot = _multi_hot(labels, best.height, families)
    source.notes |= {"track ids": by_id.height, "recordings": best.height}
    if not hot.any(axis=1).all():
        source.notes["recordings without a genre family"] = int((~hot.any(axis=1)).sum())
    inputs = best.select(pl.col(features.INPUT_NAMES).cast(pl.Float32)).to_numpy()
    frame = best.select("track_id", "track_name", "artists", "release_date")
    present = _present_families(hot, families, source.name)
    return Tracks(frame, ids, np.ascontiguousarray(inputs), present, hot[:, hot.any(axis=0)])


def _present_families(hot: NDArray[np.bool_], families: Families, name: str) -> list[str]:
    """Return the families that occur. Raises TableError for too few families, or too few recordings of one."""
    sizes = dict(zip(families.names(), hot.sum(axis=0).tolist(), strict=True))
    small = [f"{name} ({size})" for name, size in sizes.items() if 0 < size < MIN_GENRE_SIZE]
    if small:
        raise TableError(
            f"{name}: track_genre: expected at least {MIN_GENRE_SIZE} recordings of each family that occurs,"
            f" found fewer of {', '.join(small)}"
        )
    present = [family for family, size in sizes.items() if size]
    if len(present) < genre_families.MIN_FAMILIES:
        raise TableError(
            f"{name}: track_genre: expected labels of at least {genre_families.MIN_FAMILIES} families, found"
            f" {', '.join(present) or 'none'}"
        )
    return present


def _merge_ids(source: Table, families: Families) -> pl.DataFrame:
    frame = source.frame
    if "release_date" not in frame.columns:
        frame = frame.with_columns(release_date=pl.lit(None, pl.Int64))
    unknown = sorted(set(frame["track_genre"]) - families.number_of().keys())
    if unknown:
        more = f" and {len(unknown) - 5:,} more" if len(unknown) > 5 else ""
        raise TableError(
            f"{source.name}: track_genre: expected labels of {families.name}, found {', '.join(unknown[:5])}{more};"
            " a recipe can name a file of your own families in tables.families"
        )
    repeated = frame.height - frame.unique(["track_id", "track_genre"]).height
    if repeated:
        source.notes["dropped: same track and label twice"] = repeated
    same = [name for name in frame.columns if name not in ("track_id", "track_genre", "popularity")]
    by_id = frame.group_by("track_id").agg(
        pl.col("track_genre").unique().sort(),
        pl.col("popularity").max(),
        pl.col("popularity").n_unique().alias("popularities"),
        pl.struct(same).n_unique().alias("variants"),
        *(pl.col(name).first() for name in same),
    )
    conflicts = by_id.filter(pl.col("variants") > 1).sort("track_id")
    if conflicts.height:
        raise TableError(
            f"{source.name}: track_id: expected rows of one id to differ in label and popularity only, found"
            f" {conflicts['track_id'][0]!r} with other values too ({conflicts.height:,} such ids)"
        )
    varying = by_id.filter(pl.col("popularities") > 1).height
    if varying:
        source.notes["ids with several popularities, largest kept"] = varying
    return by_id.sort("track_id")


def recordings(frame: pl.DataFrame, inputs: NDArray[Any]) -> NDArray[np.int32]:
    """Return the number of each row's recording, from titles and artists, and inputs (n, 15).

    Two rows are the same recording if title (with the number of a part) and primary artist have the same key and the
    durations are at most `MAX_SECONDS_APART` apart, or if their audio features are equal and rare: found under at most
    `MAX_ARTISTS_OF_AUDIO` artists. Rows that are connected by others are the same recording too. Shape (n,).
    """
    count = frame.height
    titles, artists = frame["track_name"].to_list(), frame["artists"].to_list()
    artist_keys = [artist_key(each.split(";")[0]) or each for each in artists]
    keys = [f"{title_key(title)}\n{_part(title)}\n{artist}" for title, artist in zip(titles, artist_keys, strict=True)]
    key_codes = text_codes(keys)
    artist_codes = text_codes(artist_keys)
    by_key = _near_durations(key_codes, inputs[:, features.INPUT_NAMES.index("duration_ms")] / 1000)
    by_audio = _rare_audio(inputs[:, : len(features.AUDIO)], artist_codes)
    nodes = np.concatenate([count + by_key, count + by_key.max() + 1 + by_audio])
    edges = (np.ones(2 * count, bool), (np.tile(np.arange(count), 2), nodes))
    size = int(nodes.max()) + 1
    groups: NDArray[np.int32] = connected_components(coo_matrix(edges, shape=(size, size)), directed=False)[1]
    return groups[:count]


def _part(title: str) -> str:
    """Return the numbers of parts in a title, as text."""
    return " ".join("".join(each).lower() for each in _PART.findall(title))


def _near_durations(codes: Rows, seconds: NDArray[Any]) -> Rows:
    """Return a code for each run of rows with one code whose durations, in order, are near each other. Shape (n,)."""
    order = np.lexsort((seconds, codes))
    apart = (np.diff(codes[order]) > 0) | (np.diff(seconds[order]) > MAX_SECONDS_APART)
    runs = np.empty(len(codes), np.int64)
    runs[order] = np.concatenate([[0], np.cumsum(apart)])
    return runs


def _rare_audio(audio: NDArray[Any], artists: Rows) -> Rows:
    """Return a code for each vector of audio (n, 12) that few of the `artists` (n,) have; of other rows, one each."""
    sound = np.ascontiguousarray(audio)
    codes = np.unique(sound.view(np.dtype((np.void, sound.dtype.itemsize * sound.shape[1]))), return_inverse=True)[
        1
    ].ravel()
    pairs = np.unique(np.stack([codes, artists]), axis=1)
    common = np.bincount(pairs[0])[codes] > MAX_ARTISTS_OF_AUDIO
    return np.where(common, codes.max() + 1 + np.arange(len(codes)), codes)


def _multi_hot(labels: pl.DataFrame, count: int, families: Families) -> NDArray[np.bool_]:
    number = {label: i for label, i in families.number_of().items() if i is not None}
    known = labels.filter(pl.col("track_genre").is_in(list(number)))
    hot = np.zeros((count, len(families.names())), bool)
    hot[known["row"].to_numpy(), known["track_genre"].replace_strict(number, return_dtype=pl.Int64).to_numpy()] = True
    return hot
