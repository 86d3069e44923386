"""Training examples of the ranker: impressions with the components that the retriever computes for them."""

from collections.abc import Iterator
from dataclasses import dataclass
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
from musix_trainer.models.ranker.candidates import compute_features, known_user, retrieve_candidates

LIST_SIZE = 10  # impressions of one list, whose tracks determine each other's diversity


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
    return _concatenate(pieces)


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
    return _concatenate(pieces)


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
    current_track = retriever.content.vectors(rng.choice(user.history, 1))[0]
    recent = user.history[: rng.integers(1, 11)]
    folded_in = User(retriever.collab.fold_in(recent), recent, recent)
    cold_starts = [
        (user, current_track),
        (folded_in, retriever.content.profile(recent)),
        (ANONYMOUS, current_track),
        (ANONYMOUS, None),
    ]
    return [(user, profile), cold_starts[rng.integers(len(cold_starts))]]


def _list_examples(
    retriever: Retriever,
    user: User,
    query: Floats | None,
    number: int,
    rows: Rows,
    positive: NDArray[np.bool_],
    hours: NDArray[np.float32],
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
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


def _concatenate(pieces: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]) -> TrainingExamples:
    if not pieces:
        empty = np.empty(0, np.int64)
        return TrainingExamples(empty, empty, np.empty((0, len(COMPONENTS) + 2), np.float32), np.empty(0, bool))
    listener, inputs, positive = (np.concatenate(each) for each in zip(*pieces, strict=True))
    lists = np.repeat(np.arange(len(pieces)), [len(each) for each, _, _ in pieces])
    return TrainingExamples(listener, lists, inputs.astype(np.float32), positive)
