"""Files that the peers load: pickled models and arrays of a bundle, as is usual."""

import pickle
from pathlib import Path
from typing import Any

import faiss
import joblib
import numpy as np
import torch

from musix_runtime.models.features import AUDIO_NAMES, INPUT_NAMES
from musix_runtime.models.mood import MOODS
from musix_trainer.models.genre.model import BOOSTERS
from musix_trainer.run import Run

NAMES = "names.pickle"  # dicts and lists, which pickle reads ten times as fast as joblib
TRACKS, LISTENERS, ARTISTS, GENRE = "tracks.joblib", "listeners.joblib", "artists.joblib", "genre.joblib"
MOOD, RANKER, CONTENT = "mood.pt", "ranker.pt", "content.faiss"


def write(run: Run, folder: Path) -> None:
    """Write the files of `run` to `folder`, and replace older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAMES).write_bytes(pickle.dumps(_names(run), pickle.HIGHEST_PROTOCOL))
    joblib.dump(_tracks(run), folder / TRACKS)
    joblib.dump(_listeners(run), folder / LISTENERS)
    artists = len(run.genre.artists)
    factors = np.column_stack([run.genre.item_factors, run.genre.item_biases])
    said = np.vstack([np.zeros_like(run.genre.artist_prior[:1]), run.genre.artist_prior])
    joblib.dump(np.column_stack([factors[: artists + 1], said]), folder / ARTISTS)
    left_out = (*BOOSTERS, "artists", "artist_prior", "grams", "gram_weights", "held_out")
    arrays = {name: value for name, value in vars(run.genre).items() if name not in left_out}
    arrays |= {"item_factors": None, "item_biases": None, "bin_factors": factors[artists + 1 :]}
    joblib.dump(arrays, folder / GENRE)
    for name in BOOSTERS:
        getattr(run.genre, name).save_model(folder / f"{name}.ubj")
    mood = run.mood.network
    torch.save(
        {"layers": mood.layers, **{name: getattr(mood, name) for name in ("median", "mean", "scale", "focus_limit")}},
        folder / MOOD,
    )
    torch.save(run.ranker.network.layers, folder / RANKER)
    index = faiss.IndexFlatIP(run.content.vectors.shape[1])
    index.add(run.content.vectors)
    faiss.write_index(index, str(folder / CONTENT))


def _names(run: Run) -> dict[str, Any]:
    """Return dicts and lists with the content of the sorted arrays of the runtime."""
    frame, ids = run.catalogue.frame, run.catalogue.ids
    return {
        "row_of_track": dict(zip(ids["track_id"].to_list(), ids["row"].to_list(), strict=True)),
        "row_of_listener": {item.decode(): row for row, item in enumerate(run.collab.listeners.tolist())},
        "row_of_artist": {key.decode(): row + 1 for row, key in enumerate(run.genre.artists.tolist())},
        "ids": frame["track_id"].to_list(),
        "names": frame["track_name"].to_list(),
        "artists": frame["artists"].to_list(),
    }


def _tracks(run: Run) -> dict[str, Any]:
    return {
        "inputs": run.catalogue.inputs,
        "input_names": list(INPUT_NAMES),
        "audio_names": list(AUDIO_NAMES),
        "labels": run.catalogue.labels,
        "families": run.catalogue.families,
        "mood_names": list(MOODS),
        "moods": run.catalog.moods,
        "freshness": run.catalog.freshness,
        "popularity": run.catalog.popularity,
        "popular": run.catalog.popular,
        "artists": vars(run.artists),
        "factors": run.retriever().serving.factors,
        "candidates": run.recipe.ranker.candidates,
        "pool": run.recipe.ranker.pool,
        "blend": run.retriever().serving.blend,
    }


def _listeners(run: Run) -> dict[str, Any]:
    model = run.collab
    place_of = np.full(len(run.catalogue), -1, np.int64)
    place_of[model.rows] = np.arange(len(model.rows))
    return {
        "listener_factors": model.listener_factors,
        "track_factors": model.track_factors,
        "track_mean": model.track_mean,
        "tastes": model.tastes,
        "track_rows": model.rows,
        "place_of": place_of,
        "fold_in": model.fold_in,
        "history_offsets": model.history_offsets,
        "history_rows": model.history_rows,
        "history_recent": model.history_recent,
    }
