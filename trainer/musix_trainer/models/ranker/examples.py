"""Training examples of the ranker: impressions with the components that the retriever computes for them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import Floats, Rows
from musix_runtime.models.ranker import COMPONENTS, DIVERSITY
from musix_runtime.models.retrieval import ANONYMOUS, Retriever, User
from musix_runtime.models.selection import LEVELS, pairwise_diversity
from musix_trainer import progress, recipe
from musix_trainer.data.impressions import Impressions
from musix_trainer.data.interactions import Interactions
from musix_trainer.models.collab import CollabModel, relevant_rows
from musix_trainer.models.ranker.candidates import compute_features, known_user, new_user, retrieve_candidates

LIST_SIZE = 10  # impressions of one list, whose tracks determine each other's diversity
N_HISTORIES = 3  # random parts of each new listener's history
CURRENT_TRACK_SHARE = 0.3  # of new listeners, who are also seen with a current track
COLD_START_SHARE = 0.2  # of new listeners, who are also seen without their history
Piece = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]  # a list: listener (n,), inputs (n, 7), positive (n,)


@dataclass(frozen=True)
class TrainingExamples:
    """Impressions; every field has an entry for each."""

    listener: NDArray[np.int64]  # (n,) number in the collab part
    list: NDArray[np.int64]  # (n,) number of the list that it was shown in
    inputs: Floats  # (n, 7) components and context
    positive: NDArray[np.bool_]  # (n,)


def examples_from_impressions(
    retriever: Retriever, collab: CollabModel, impressions: Impressions, names: list[str], seed: int
) -> TrainingExamples:
    """Return the impressions with their components, each as of a known listener and as of a cold-start one."""
    rng = np.random.default_rng(seed)
    numbers = retriever.collab.listeners.find(names)[impressions.listener]
    pieces = []
    for number, entries in _group_by_listener(numbers):
        rows, positive, hours = impressions.row[entries], impressions.positive[entries], impressions.hour[entries]
        for user, query in _user_contexts(retriever, collab, number, rng):
            pieces.append(_list_examples(retriever, user, query, number, rows, positive, hours))
            hours = np.full(len(rows), np.nan, np.float32)  # the cold-start request does not tell the hour
    return concatenate(pieces)


def derive_examples(
    retriever: Retriever, collab: CollabModel, held_out: Interactions, settings: recipe.Ranker, seed: int
) -> TrainingExamples:
    """Return simulated impressions: the retriever's candidates that are in the held-out interactions, positive, among
    others that are not."""
    rng = np.random.default_rng(seed)
    relevant = relevant_rows(collab, held_out)
    pieces = []
    for _, number in zip(progress.steps("ranker: listeners", len(relevant)), sorted(relevant), strict=True):
        for user, query in _user_contexts(retriever, collab, number, rng):
            rows = retrieve_candidates(retriever, user, query, settings.candidates)
            positive = np.isin(rows, list(relevant[number]))
            negatives = rng.permutation(np.flatnonzero(~positive))[: settings.negatives * int(positive.sum())]
            order = rng.permutation(np.concatenate([np.flatnonzero(positive), negatives]))
            if len(order):
                hours = np.full(len(order), np.nan, np.float32)
                pieces.append(_list_examples(retriever, user, query, number, rows[order], positive[order], hours))
    return concatenate(pieces)


def continue_histories(
    retriever: Retriever, data: Interactions, folded: NDArray[np.int64], seed: int, by_artist: bool
) -> Iterator[Piece]:
    """Yield simulated impressions of new listeners: all candidates for a random part of the history, positive those in
    its rest. `folded` are the numbers of the listeners in `data`, to whom the retriever's models were not fitted.

    With `by_artist`, each track stands for an artist: positive are then random tracks of all artists of the listener.
    """
    rng = np.random.default_rng(seed)
    for number in folded.tolist():
        rows = data.row[data.listener == number]
        for _ in range(N_HISTORIES if len(rows) > 1 else 0):
            rows = rng.permutation(rows)
            size = int(np.exp(rng.uniform(0, np.log(len(rows)))))
            history, rest = rows[:size], rows[size:]
            for user, query in _new_user_contexts(retriever, history, int(rest[0]), rng):
                shown = rng.permutation(retrieve_candidates(retriever, user, query, retriever.serving.candidates))
                shown = shown[shown != user.current]
                hours = np.full(len(shown), np.nan, np.float32)
                positive = _draw_heard(retriever, rows, shown, rng) if by_artist else np.isin(shown, rest)
                yield _list_examples(retriever, user, query, number, shown, positive, hours)


def _draw_heard(retriever: Retriever, listened: Rows, rows: Rows, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return whether a listener of the artists of `listened` has heard each of the `rows` (n,), at random.

    Of an artist, the most popular track always was, and others with the chance 1 / root(1 + rank), by which the artists
    part weighs them. Without this, the ranker would learn that no other track of a heard artist is right.
    """
    artists = retriever.artists
    chance = 1 / np.sqrt(1 + artists.ranks[rows])
    return np.isin(artists.of(rows), artists.of(listened)) & (rng.random(len(rows)) < chance)


def split_inputs(inputs: Floats) -> tuple[Floats, Floats]:
    """Return the network's two inputs: components (..., 5) and context (..., 2)."""
    return inputs[..., : len(COMPONENTS)], inputs[..., len(COMPONENTS) :]


def _user_contexts(
    retriever: Retriever, collab: CollabModel, number: int, rng: np.random.Generator
) -> list[tuple[User, Floats | None]]:
    """Return the listener as a known user and as a random one of the cold starts of the runtime, each with its content
    query.

    The network thus learns to rank when components are missing.
    """
    user, profile = known_user(retriever, collab, number)
    current = int(rng.choice(user.history))
    playing, anonymous = replace(user, current=current), replace(ANONYMOUS, current=current)
    recent = user.history[: rng.integers(1, 11)]
    folded_in = User(retriever.collab.fold_in(recent), recent, recent)
    cold_starts = [
        (playing, retriever.content_query(playing)),
        (folded_in, retriever.content.profile(recent)),
        (anonymous, retriever.content_query(anonymous)),
        (ANONYMOUS, None),
    ]
    return [(user, profile), cold_starts[rng.integers(len(cold_starts))]]


def _new_user_contexts(
    retriever: Retriever, history: Rows, current: int, rng: np.random.Generator
) -> list[tuple[User, Floats | None]]:
    """Return a listener with this history as a new user, and, now and then, with the current track as well, or without
    its history."""
    user, _ = new_user(retriever, history)
    users = [user]
    if rng.random() < CURRENT_TRACK_SHARE:
        users.append(replace(user, current=current))
    if rng.random() < COLD_START_SHARE:
        users.append(replace(ANONYMOUS, current=current) if rng.random() < 0.5 else ANONYMOUS)
    return [(each, retriever.content_query(each)) for each in users]


def _list_examples(
    retriever: Retriever,
    user: User,
    query: Floats | None,
    number: int,
    rows: Rows,
    positive: NDArray[np.bool_],
    hours: NDArray[np.float32],
) -> Piece:
    """Return one listener's examples: number (n,), components with context (n, 7), positive (n,).

    The rows are cut into lists of `LIST_SIZE`; the diversity of a track is that to the tracks above it in its list.
    """
    features = compute_features(retriever, user, query, rows)
    (components,) = features.components
    for start in range(0, len(rows), LIST_SIZE):
        vectors = features.vectors[:, start : start + LIST_SIZE]
        above = np.tri(vectors.shape[1], k=-1, dtype=bool)
        levels = np.where(above, pairwise_diversity(vectors)[0], LEVELS).min(axis=1)
        components[start : start + LIST_SIZE, DIVERSITY] = levels / LEVELS
    history_length = np.full(len(rows), len(user.history))
    return np.full(len(rows), number), np.column_stack([components, history_length, hours]), positive


def _group_by_listener(numbers: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each listener that has factors (number >= 0), with the positions of its entries in order."""
    order = np.argsort(numbers, kind="stable")
    listeners, starts = np.unique(numbers[order], return_index=True)
    for number, entries in zip(listeners.tolist(), np.split(order, starts[1:]), strict=True):
        if number >= 0:
            yield number, entries


def concatenate(pieces: list[Piece]) -> TrainingExamples:
    """Return the examples of all lists."""
    if not pieces:
        empty = np.empty(0, np.int64)
        return TrainingExamples(empty, empty, np.empty((0, len(COMPONENTS) + 2), np.float32), np.empty(0, bool))
    listener, inputs, positive = (np.concatenate(each) for each in zip(*pieces, strict=True))
    lists = np.repeat(np.arange(len(pieces)), [len(each) for each, _, _ in pieces])
    return TrainingExamples(listener, lists, inputs.astype(np.float32), positive)
