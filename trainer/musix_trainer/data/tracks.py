"""Tracks table: the catalogue, with one row for each recording."""

import re
import tomllib
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
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
from musix_trainer.data.tables import Column, Table, check

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

_BRACKETS = re.compile(r"\([^)]*\)|\[[^\]]*\]")
_SUFFIX = re.compile(r" - .*$|\bfeat\b.*$", re.IGNORECASE)


@dataclass(frozen=True)
class Tracks:
    """Recordings in the order of their track ids.

    `frame` has track_id, track_name, artists, release_date (seconds, null when unknown); `ids` maps every track_id to
    its row; `inputs` (n, 15) are the raw inputs; `labels` are the names of the families that occur, and `families`
    (n, labels) is True where a recording is of a family.
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

    def primary_artists(self) -> list[str]:
        """Return the key of each recording's primary artist."""
        return [artist_key(each[0]) or each[0] for each in self.artists()]

    @cached_property
    def artist_numbers(self) -> Rows:
        """The number of each recording's primary artist, in the order of their keys. Shape (n,)."""
        return np.unique(self.primary_artists(), return_inverse=True)[1].astype(np.int64)


def families() -> dict[str, list[str]]:
    """Return the labels of each genre family, by `families.toml`, in alphabetical order of families."""
    return tomllib.loads(resources.files("musix_trainer").joinpath("families.toml").read_text("utf-8"))


def title_key(title: str) -> str:
    """Return the key by which titles are compared: without brackets, suffixes such as "- Remastered", and "feat."."""
    return normalize(_SUFFIX.sub("", _BRACKETS.sub(" ", title))) or normalize(title) or title


def recording_key(title: str, artists: str) -> str:
    """Return the key by which recordings are compared: of the title and the first of the artists, separated by `;`."""
    return f"{title_key(title)}\n{artist_key(artists.split(';')[0]) or artists}"


def read_tracks(source: Table) -> Tracks:
    """Check the table and merge its rows, first by track id, then by recording.

    Two ids are the same recording if title and primary artist have the same key, or all 12 audio features are equal.
    A recording has the metadata of its most popular id, and the labels and ids of all. Raises TableError.
    """
    check(source, SCHEMA, "track_id")
    source.frame = source.frame.with_columns(pl.col("track_id").map_elements(strip_uri, return_dtype=pl.String))
    source.keep(pl.col("tempo") > 0, "failed audio analysis (tempo 0)")
    source.keep(pl.col("duration_ms") > 0, "no duration")
    by_id = _merge_ids(source)
    groups = recordings(by_id, by_id.select(features.AUDIO_NAMES).to_numpy())
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
    source.notes |= {"track ids": by_id.height, "recordings": best.height}
    inputs = best.select(pl.col(features.INPUT_NAMES).cast(pl.Float32)).to_numpy()
    frame = best.select("track_id", "track_name", "artists", "release_date")
    hot = _multi_hot(labels, best.height)
    sizes = dict(zip(families(), hot.sum(axis=0).tolist(), strict=True))
    small = [f"{name} ({size})" for name, size in sizes.items() if 0 < size < MIN_GENRE_SIZE]
    if small:
        raise TableError(
            f"{source.name}: track_genre: expected at least {MIN_GENRE_SIZE} recordings of each family that occurs,"
            f" found fewer of {', '.join(small)}"
        )
    if np.count_nonzero(hot.any(axis=0)) < 3:
        raise TableError(f"{source.name}: track_genre: expected labels of at least 3 families, found fewer")
    present = [name for name, size in sizes.items() if size]
    return Tracks(frame, ids, np.ascontiguousarray(inputs), present, hot[:, hot.any(axis=0)])


def _merge_ids(source: Table) -> pl.DataFrame:
    frame = source.frame
    if "release_date" not in frame.columns:
        frame = frame.with_columns(release_date=pl.lit(None, pl.Int64))
    unknown = sorted(set(frame["track_genre"]) - {label for labels in families().values() for label in labels})
    if unknown:
        raise TableError(
            f"{source.name}: track_genre: expected labels of families.toml, found {', '.join(unknown[:5])}"
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


def recordings(frame: pl.DataFrame, audio: NDArray[Any]) -> NDArray[np.int32]:
    """Return the number of each row's recording, by title and artists, and audio features (n, 12 or more).

    Rows are connected by key or by audio; a recording is a connected component. Shape (n,).
    """
    count = frame.height
    keys = [recording_key(*each) for each in zip(frame["track_name"], frame["artists"], strict=True)]
    key_codes = np.unique(keys, return_inverse=True)[1]
    sound = np.ascontiguousarray(audio[:, : len(features.AUDIO)])
    audio_codes = np.unique(
        sound.view(np.dtype((np.void, sound.dtype.itemsize * sound.shape[1]))), return_inverse=True
    )[1]
    nodes = np.concatenate([count + key_codes, count + key_codes.max() + 1 + audio_codes.ravel()])
    edges = (np.ones(2 * count, bool), (np.tile(np.arange(count), 2), nodes))
    size = int(nodes.max()) + 1
    groups: NDArray[np.int32] = connected_components(coo_matrix(edges, shape=(size, size)), directed=False)[1]
    return groups[:count]


def _multi_hot(labels: pl.DataFrame, count: int) -> NDArray[np.bool_]:
    number = {label: i for i, members in enumerate(families().values()) for label in members}
    hot = np.zeros((count, len(families())), bool)
    hot[labels["row"].to_numpy(), labels["track_genre"].replace_strict(number, return_dtype=pl.Int64).to_numpy()] = True
    return hot
