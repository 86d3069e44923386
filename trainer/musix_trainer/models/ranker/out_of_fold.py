"""Out-of-fold training examples of the ranker: each listener is continued by models that were fitted without it."""

from dataclasses import replace

import numpy as np

from musix_runtime.models.arrays import Rows
from musix_runtime.models.ranker import COMPONENTS
from musix_runtime.models.retrieval import Retriever
from musix_trainer import progress, recipe
from musix_trainer.data.interactions import Interactions
from musix_trainer.data.tracks import Tracks
from musix_trainer.models import artists, collab, item_stats
from musix_trainer.models.collab import CollabModel
from musix_trainer.models.content import ContentModel
from musix_trainer.models.item_stats import ItemStats
from musix_trainer.models.ranker.examples import Piece, TrainingExamples, concatenate, continue_histories
from musix_trainer.models.retriever import make_retriever

NO_FOLD = -1
UNIFORM = dict.fromkeys(COMPONENTS, 1 / len(COMPONENTS))


def train_retriever(
    catalogue: Tracks, content: ContentModel, stats: ItemStats, data: Interactions, settings: recipe.Recipe
) -> tuple[Retriever, CollabModel]:
    """Return a retriever with artists, collab and popularity of `data` alone, and its collab part.

    What does not depend on listeners is taken from `content` and `stats`.
    """
    factors = collab.train(data, settings.collab, settings.seed, catalogue.artist_numbers)
    by_artist = artists.train(catalogue, data, settings.artists)
    popularity, popular = item_stats.popularity_arrays(catalogue, data, settings.catalog)
    stats = replace(stats, popularity=popularity, popular=popular)
    return make_retriever(by_artist, factors, content, stats, settings.ranker, UNIFORM), factors


def assign_folds(data: Interactions, folds: int, seed: int) -> Rows:
    """Return the fold of each listener in random order. Shape (len(data.names),).

    With playlists, these are in the folds, which have equal sizes, and the other listeners in none: -1.
    """
    assigned = np.full(len(data.names), NO_FOLD)
    count = data.playlists or len(data.names)
    assigned[-count:] = np.random.default_rng(seed).permutation(count) % folds
    return assigned


def out_of_fold_examples(
    catalogue: Tracks, content: ContentModel, stats: ItemStats, data: Interactions, settings: recipe.Recipe
) -> TrainingExamples:
    """Return examples of all playlists of `data`, or of all listeners without any, in `settings.ranker.folds` folds.

    If the recipe splits by artist, as listening that was derived from artists needs, a track of a listener stands for
    its artist.
    """
    by_artist = settings.split.by == "artist" and not data.playlists
    folds = assign_folds(data, settings.ranker.folds, settings.seed)
    pieces: list[Piece] = []
    for fold in range(settings.ranker.folds):
        progress.say(f"ranker: fold {fold + 1} of {settings.ranker.folds}")
        held_out = folds[data.listener] == fold
        retriever, _ = train_retriever(catalogue, content, stats, data.select(~held_out), settings)
        listeners = np.unique(data.listener[held_out])
        pieces += continue_histories(retriever, data, listeners, settings.seed + fold, by_artist)
    return concatenate(pieces)
