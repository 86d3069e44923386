"""Import of moods that people heard in songs, and of mood tags of artists (Last.fm, HetRec 2011)."""

from pathlib import Path

import numpy as np
import polars as pl

from musix_runtime.atomic import new_path
from musix_runtime.errors import OutputError, TableError, shorten
from musix_runtime.models.genre import artist_key
from musix_trainer.data import split, tables
from musix_trainer.data.interactions import in_catalogue
from musix_trainer.data.moods import PERCEIVED, SPLITS
from musix_trainer.data.tables import Column, Table, check, check_once
from musix_trainer.data.tracks import Tracks, read_tracks, title_key

SONGS = [
    Column("track_id", "text", optional=True),
    Column("artist_name", "text", optional=True),
    Column("track_name", "text", optional=True),
    Column("valence", "number", optional=True),
    Column("arousal", "number", optional=True),
    Column("mood", "text", optional=True),
    Column("split", "text", optional=True),
]
ARTISTS = [Column("id", "text"), Column("name", "text")]
TAGS = [Column("tagID", "text"), Column("tagValue", "text")]
TAGGED = [Column("userID", "text"), Column("artistID", "text"), Column("tagID", "text")]
MOOD_OF_TAG = {
    tag: mood
    for mood, names in {
        "happy": "happy, fun, summer, feel good, feelgood, uplifting, upbeat, cheerful, joyful, makes me happy",
        "sad": "sad, sadness, melancholic, melancholy, melancholia, depressive, depressing, heartbreak",
        "energetic": "energetic, energy, party, powerful, intense, aggressive, angry",
        "calm": "calm, calming, mellow, chillout, chill out, chill, relax, relaxing, soothing, peaceful",
    }.items()
    for tag in names.split(", ")
}
WIDTH = 0.3  # of the soft quadrants of valence and arousal, in standard deviations
HELD_OUT = 0.2  # share of the artists in validation, and in test, where the songs have no split
DERIVATION = (
    "songs: shares of the four quadrants of valence and arousal around 0, or the mood that the song has; tags: of each"
    " artist, the shares of its mood tags, for all its recordings; joined by track id, or by title and primary artist"
)


def import_moods(file: Path, tracks: Path, tags: Path | None, out: Path) -> dict[str, int | str]:
    """Write the moods table `out`, and return the numbers of matched songs and artists.

    `tags` is the folder of lastfm2k_artists, lastfm2k_tags and lastfm2k_user_taggedartists-timestamps. Recordings of
    artists in the test split of the songs have no tags. Raises TableError for wrong tables, OutputError when `out`
    exists or is not named .parquet.
    """
    if out.suffix != ".parquet" or out.exists():
        raise OutputError(f"{out}: expected a new .parquet file, found {'one' if out.exists() else 'another suffix'}")
    known, source = tables.read_all([tracks, file])
    catalogue, columns = read_tracks(known), source.frame.columns
    names = catalogue.frame.select("track_id", "track_name", artist=pl.Series(catalogue.primary_artists()))
    check(source, SONGS, "track_name" if "track_name" in source.frame.columns else "track_id")
    songs = _split(_join(_shares(source, columns), source.name, names, catalogue), source.name)
    notes: dict[str, int | str] = {"songs": source.rows, "songs of the catalogue": songs.height}
    frames = [songs.with_columns(source=pl.lit("songs"))]
    if tags:
        tagged = _tagged(tags, names, songs)
        frames.append(tagged.with_columns(source=pl.lit("tags")))
        notes |= {"recordings of artists with mood tags": tagged.height}
    table = pl.concat([each.select("track_id", *PERCEIVED, "source", "split") for each in frames])
    notes |= {name: table.filter(pl.col("split") == name).height for name in SPLITS}
    with new_path(out) as partial:
        tables.write(partial, table, {"derivation": DERIVATION})
    return notes


def _shares(source: Table, columns: list[str]) -> pl.DataFrame:
    """Return the songs with their shares of the perceived moods. Raises TableError, with the `columns` of the file."""
    frame = source.frame
    if {"valence", "arousal"} <= set(columns):
        frame = frame.drop_nulls(["valence", "arousal"])
        for name in ("valence", "arousal"):
            if not np.count_nonzero(frame[name] > 0) or not np.count_nonzero(frame[name] < 0):
                raise TableError(
                    f"{source.name}: {name}: expected values on both sides of 0, found others; centre them"
                )
        bright, loud = (1 / (1 + (-pl.col(name) / WIDTH).exp()) for name in ("valence", "arousal"))
        shares = {
            "happy": bright * loud,
            "sad": (1 - bright) * (1 - loud),
            "energetic": (1 - bright) * loud,
            "calm": bright * (1 - loud),
        }
        return frame.with_columns(**shares)
    if "mood" not in columns:
        raise TableError(
            f"{source.name}: expected the columns valence and arousal, or mood, found only {', '.join(columns)}"
        )
    frame = frame.drop_nulls("mood").with_columns(pl.col("mood").str.to_lowercase())
    unknown = sorted(set(frame["mood"]) - set(PERCEIVED))
    if unknown:
        raise TableError(f"{source.name}: mood: expected {', '.join(PERCEIVED)}, found {', '.join(unknown[:5])}")
    return frame.with_columns((pl.col("mood") == mood).cast(pl.Float64).alias(mood) for mood in PERCEIVED)


def _join(songs: pl.DataFrame, name: str, names: pl.DataFrame, catalogue: Tracks) -> pl.DataFrame:
    """Return the songs of the catalogue with its track ids, by id or else by key; the first of each recording."""
    columns = songs.columns
    if "track_id" in columns:
        songs = in_catalogue(songs, catalogue)
    elif {"artist_name", "track_name"} <= set(columns):
        titles = zip(names["track_name"], names["artist"], strict=True)
        rows = {_key(title, artist): row for row, (title, artist) in enumerate(titles)}
        songs = songs.drop_nulls(["artist_name", "track_name"])
        pairs = zip(songs["track_name"], songs["artist_name"], strict=True)
        matched = [rows.get(_key(title, artist_key(artist) or artist)) for title, artist in pairs]
        songs = songs.with_columns(row=pl.Series(matched, dtype=pl.Int64))
    else:
        expected = "the column track_id, or artist_name and track_name"
        raise TableError(f"{name}: expected {expected}, found only {', '.join(columns)}")
    known = songs.drop_nulls("row").unique("row", keep="first", maintain_order=True)
    if not known.height:
        raise TableError(f"{name}: expected songs of the catalogue, found none")
    found = names[known["row"].cast(pl.Int64)]
    return known.with_columns(found["track_id"], found["artist"])


def _key(title: str, artist: str) -> str:
    return f"{title_key(title)}\n{artist}"


def _split(songs: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return the songs with their own split, or else with one by artist. Raises TableError for other splits."""
    if "split" in songs.columns:
        songs = songs.drop_nulls("split")
        other = sorted(set(songs["split"]) - set(SPLITS))
        if other or not songs.height:
            found = shorten(", ".join(other)) or "none"
            raise TableError(f"{name}: split: expected {', '.join(SPLITS)}, found {found}")
        return songs
    artists = songs["artist"].unique().sort()
    parts = split.assign(len(artists), HELD_OUT, HELD_OUT, 0)
    splits = pl.DataFrame({"artist": artists, "split": np.array(list(SPLITS))[parts]})
    return songs.join(splits, on="artist", maintain_order="left")


def _tagged(folder: Path, names: pl.DataFrame, songs: pl.DataFrame) -> pl.DataFrame:
    """Return the recordings of artists with mood tags, in the split of their artist among the songs, or in train."""
    files = "artists", "tags", "user_taggedartists-timestamps"
    artists, tags, tagged = tables.read_all([folder / f"lastfm2k_{name}.parquet" for name in files])
    for source, schema in ((artists, ARTISTS), (tags, TAGS), (tagged, TAGGED)):
        check(source, schema, schema[0].name)
    check_once(artists, "id")
    check_once(tags, "tagID")
    moods = tags.frame.with_columns(
        mood=pl.col("tagValue").str.to_lowercase().replace_strict(MOOD_OF_TAG, default=None)
    ).drop_nulls("mood")
    keys = artists.frame.select(
        artistID="id", artist=pl.col("name").map_elements(artist_key, return_dtype=pl.String)
    ).filter(pl.col("artist") != "")
    counts = tagged.frame.join(moods, on="tagID").join(keys, on="artistID").group_by("artist", "mood").len()
    shares = counts.pivot("mood", index="artist", values="len").fill_null(0)
    shares = shares.select(
        "artist", *(pl.col(mood) if mood in shares.columns else pl.lit(0).alias(mood) for mood in PERCEIVED)
    )
    total = pl.sum_horizontal(PERCEIVED)
    latest = songs.group_by("artist").agg(pl.col("split").replace_strict(SPLITS).max().alias("part"))
    parts = names.join(shares.with_columns(pl.col(PERCEIVED) / total), on="artist").join(
        latest, on="artist", how="left"
    )
    known = parts.filter(pl.col("part").fill_null(split.TRAIN) != split.TEST).sort("track_id")
    return known.with_columns(
        split=pl.col("part").fill_null(split.TRAIN).replace_strict({part: name for name, part in SPLITS.items()})
    )
