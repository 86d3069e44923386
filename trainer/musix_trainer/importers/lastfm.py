"""Import of Last.fm's raw tables (HetRec 2011) into the standard tables. Interactions are derived from artists."""

from pathlib import Path

import polars as pl

from musix_runtime.atomic import new_folder
from musix_runtime.errors import OutputError, TableError
from musix_runtime.models.genre import artist_key
from musix_trainer.data import tables
from musix_trainer.data.tables import Column, Table, check, check_once
from musix_trainer.data.tracks import read_tracks
from musix_trainer.importers import release_dates

PLAYS = [Column("userID", "text"), Column("artistID", "text"), Column("weight", "number", 0, 1e12)]
ARTISTS = [Column("id", "text"), Column("name", "text")]
DERIVATION = (
    "a listener of an artist counts as a listener of that artist's most popular recording in the catalogue; artists are"
    " joined by normalised name of the primary artist"
)


def import_lastfm(raw: Path, tracks: Path, out: Path, dates: Path | None = None) -> dict[str, int | str]:
    """Write `out`/tracks.parquet and `out`/listening.parquet, and return the numbers of matched artists and pairs.

    `raw` is the folder of lastfm2k_user_artists.parquet and lastfm2k_artists.parquet, `tracks` the tracks table,
    to which the release dates of the table `dates` are added. Raises TableError for wrong tables, OutputError when
    `out` exists and is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out}: expected a new name or an empty folder, found an existing one")
    files = raw / "lastfm2k_user_artists.parquet", raw / "lastfm2k_artists.parquet", tracks
    plays, artists, source = tables.read_all(files)
    check(plays, PLAYS, "userID")
    check(artists, ARTISTS, "id")
    check_once(artists, "id")
    dated = release_dates.add(source, dates) if dates else {}
    table = source.frame
    listening, notes = _derive(plays, artists, source)
    if not listening.height:
        raise TableError(f"{plays.name}: expected plays of artists of the catalogue, found none")
    with new_folder(out, replace=out.exists()) as folder:
        tables.write(folder / "tracks.parquet", table, {"derivation": release_dates.DERIVATION} if dates else None)
        tables.write(folder / "listening.parquet", listening, {"derivation": DERIVATION})
    return notes | dated


def _derive(plays: Table, artists: Table, tracks: Table) -> tuple[pl.DataFrame, dict[str, int | str]]:
    recordings = _best_recordings(tracks)
    artist_keys = artists.frame.select(
        artistID="id", key=pl.col("name").map_elements(artist_key, return_dtype=pl.String)
    )
    known = plays.frame.join(artist_keys.filter(pl.col("key") != ""), on="artistID").join(
        recordings, on="key", how="semi"
    )
    # Spellings with the same key are one artist.
    merged = known.group_by("userID", "key").agg(plays=pl.col("weight").cast(pl.Float64).sum())
    listening = merged.join(recordings, on="key").select("track_id", "plays", user_id="userID")
    listening = listening.select("user_id", "track_id", "plays").sort("user_id", "track_id")
    return listening, {
        "pairs of listener and artist": plays.frame.height,
        "pairs matched": known.height,
        "artists": plays.frame["artistID"].n_unique(),
        "artists matched": known["artistID"].n_unique(),
        "listeners": listening["user_id"].n_unique(),
        "rows of listening": listening.height,
        "derivation": DERIVATION,
    }


def _best_recordings(tracks: Table) -> pl.DataFrame:
    merged = read_tracks(tracks)
    frame = merged.frame.select("track_id", key=pl.Series(merged.primary_artists()))
    popularity = tracks.frame.group_by("track_id").agg(pl.col("popularity").max())
    ranked = frame.join(popularity, on="track_id").sort(["popularity", "track_id"], descending=[True, False])
    return ranked.unique("key", keep="first", maintain_order=True).select("key", "track_id")
