"""Protocol `playlists/next_track`: continue a playlist after the track that plays now."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from musix_runtime.models.arrays import Rows
from musix_runtime.models.ranker import Ranker
from musix_runtime.models.retrieval import CURRENT_PLAYS, Retriever, User
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation.protocols.playlists import ranks
from musix_trainer.evaluation.protocols.playlists.baselines import Scorer
from musix_trainer.evaluation.protocols.playlists.ranks import LENGTHS, OURS, Queries, baseline_ranks, served_ranks
from musix_trainer.models.ranker.candidates import new_user, recommend

PLAYS = {"artist_popular": CURRENT_PLAYS}  # tracks of the history that the current track counts as; 1 for the others


@dataclass(frozen=True)
class CurrentTracks:
    """Queries (n,), and the current track of each, which is neither in its history nor among its relevant tracks."""

    queries: Queries
    current: list[int]

    def as_history(self, plays: int) -> Queries:
        """Return the queries with the current track at the end of the history, so many times."""
        histories = zip(self.queries.histories, self.current, strict=True)
        return replace(self.queries, histories=[np.append(rows, [row] * plays) for rows, row in histories])


def make_queries(test: Interactions, seed: int) -> CurrentTracks:
    """Return the listeners of `test` with half of their tracks as history, one of the others as the current track, and
    the rest relevant.

    A table of playlists has no order, so the history, the current track and those after it are random.
    """
    halves = ranks.make_queries(test, LENGTHS["history_half"], seed)
    listeners, histories, relevant, current = [], [], [], []
    for listener, history, rows in zip(halves.listeners, halves.histories, halves.relevant, strict=True):
        if len(rows) > 1:
            playing = int(np.random.default_rng([seed, listener, 1]).choice(rows))
            listeners.append(listener)
            histories.append(history)
            relevant.append(rows[rows != playing])
            current.append(playing)
    return CurrentTracks(Queries(listeners, histories, relevant), current)


def model_ranks(
    retriever: Retriever, ranker: Ranker, scorers: Mapping[str, Scorer], playing: CurrentTracks, size: int
) -> dict[str, dict[str, list[Any]]]:
    """Return the ranks by model and metric: of the recommender with the current track, and without it, and of the
    baselines, whose history the current track is a part of. No list has the current track."""
    users = [new_user(retriever, history)[0] for history in playing.queries.histories]
    playing_users = [replace(user, current=row) for user, row in zip(users, playing.current, strict=True)]

    def lists(listeners: list[User], limit: int) -> list[Rows]:
        return [recommend(retriever, ranker, user, retriever.content_query(user), limit) for user in listeners]

    def lists_without(limit: int) -> list[Rows]:
        longer = zip(lists(users, limit + 1), playing.current, strict=True)
        return [rows[rows != row][:limit] for rows, row in longer]

    return {
        OURS: served_ranks(lambda limit: lists(playing_users, limit), playing.queries),
        "without_current_track": served_ranks(lists_without, playing.queries),
        **{
            name: baseline_ranks(scorer, playing.as_history(PLAYS.get(name, 1)), size)
            for name, scorer in scorers.items()
        },
    }
