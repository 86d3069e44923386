"""Import of playlists into the standard tables: a playlist is a listener, with one play of each of its tracks."""

from dataclasses import astuple, dataclass
from pathlib import Path

import polars as pl

from musix_runtime.atomic import new_folder
from musix_runtime.errors import InputError, OutputError, TableError
from musix_runtime.models.catalog import strip_uri
from musix_trainer.data import tables
from musix_trainer.data.tables import Column, Table, check
from musix_trainer.data.tracks import read_tracks, recording_keys
from musix_trainer.importers import release_dates

DERIVATION = (
    "a playlist is a listener with one play of each of its tracks; tracks are joined to the catalogue by id, else by"
    " normalised title and primary artist"
)


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table of playlists, one row for each playlist and track."""

    playlist: str = "playlist_id"
    track: str = "track_id"
    title: str = "track_name"
    artist: str = "track_artist"

    @property
    def schema(self) -> list[Column]:
        """The columns that are read."""
        optional = (Column(name, "text", optional=True) for name in (self.track, self.title, self.artist))
        return [Column(self.playlist, "text"), *optional]


def import_playlists(
    file: Path, tracks: Path, out: Path, columns: Columns, dates: Path | None = None
) -> dict[str, int | str]:
    """Write `out`/tracks.parquet and `out`/listening.parquet, and return how many rows were joined, and how.

    `file` is the table of playlists, with the id of each track, or its title and artist, or both. `tracks` is the
    tracks table, to which the release dates of the table `dates` are added. Raises TableError for wrong tables and when
    no track is joined, OutputError when `out` exists and is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out}: expected a new name or an empty folder, found an existing one")
    playlists, source = tables.read_all([file, tracks])
    dated = release_dates.add(source, dates) if dates else {}
    table = source.frame
    listening, notes = _join(playlists, source, columns)
    with new_folder(out, replace=out.exists()) as folder:
        tables.write(folder / "tracks.parquet", table, {"derivation": release_dates.DERIVATION} if dates else None)
        tables.write(folder / "listening.parquet", listening, {"derivation": DERIVATION})
    return notes | dated


def _join(playlists: Table, tracks: Table, columns: Columns) -> tuple[pl.DataFrame, dict[str, int | str]]:
    if len(set(astuple(columns))) < len(astuple(columns)):
        found = ", ".join(astuple(columns))
        raise InputError(f"--playlist, --track, --title, --artist: expected different columns, found {found}")
    check(playlists, columns.schema, columns.playlist)
    present = playlists.frame.columns
    if columns.track not in present and not {columns.title, columns.artist} <= set(present):
        raise TableError(
            f"{playlists.name}: expected a column {columns.track}, or {columns.title} and {columns.artist}, found only"
            f" {', '.join(present)}"
        )
    track_id = pl.col(columns.track) if columns.track in present else pl.lit(None, pl.String)
    rows = playlists.frame.select(
        user_id=columns.playlist,
        id=track_id.map_elements(strip_uri, return_dtype=pl.String),
        key=recording_keys(playlists.frame, columns.title, columns.artist),
    )
    read_tracks(tracks)  # which checks the table, and drops what is not in the catalogue
    ids = tracks.frame.select("track_id").unique()
    best = tracks.frame.sort(["popularity", "track_id"], descending=[True, False])
    by_key = best.select(by_key="track_id", key=recording_keys(best, "track_name", "artists")).unique(
        "key", keep="first"
    )
    joined = rows.join(ids.with_columns(by_id="track_id"), left_on="id", right_on="track_id", how="left")
    joined = joined.join(by_key, on="key", how="left").with_columns(track_id=pl.coalesce("by_id", "by_key"))
    listening = joined.filter(pl.col("track_id").is_not_null()).select("user_id", "track_id").unique()
    if not listening.height:
        raise TableError(f"{playlists.name}: expected tracks of {tracks.name}, found none by id or by title and artist")
    n_by_id, n_joined = (joined.height - joined[name].null_count() for name in ("by_id", "track_id"))
    return listening.with_columns(plays=pl.lit(1.0)).sort("user_id", "track_id"), {
        "rows": playlists.rows,
        "joined by id": n_by_id,
        "joined by title and artist": n_joined - n_by_id,
        "playlists": rows["user_id"].n_unique(),
        "playlists with tracks of the catalogue": listening["user_id"].n_unique(),
        "pairs of playlist and track": listening.height,
        "derivation": DERIVATION,
    }
