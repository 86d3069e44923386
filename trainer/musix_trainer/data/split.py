"""Splits: which rows are learned from, which choose, and which are only measured. Recordings are never cut."""

import numpy as np
from numpy.typing import NDArray

from musix_trainer.data.interactions import Interactions
from musix_trainer.recipe import Split

TRAIN, VALIDATION, TEST = 0, 1, 2


def assign(count: int, validation: float, test: float, seed: int) -> NDArray[np.int8]:
    """TRAIN, VALIDATION or TEST for each of `count` units: exact shares, in a random order. Shape (count,)."""
    order = np.random.default_rng(seed).permutation(count)
    parts = np.full(count, TRAIN, np.int8)
    first, second = round(count * validation), round(count * test)
    parts[order[:first]] = VALIDATION
    parts[order[first : first + second]] = TEST
    return parts


def split_interactions(data: Interactions, artists: list[str], split: Split, seed: int) -> NDArray[np.int8]:
    """Part of each entry. A listener's tracks of one artist stay together when the split goes by artist.

    Nobody is left without training entries: of a listener who would be, all go to TRAIN. Shape (len(data),).
    """
    if split.by == "leave_one_out":
        return _leave_one_out(data, seed)
    units = data.row
    if split.by == "artist":
        units = np.unique(artists, return_inverse=True)[1][data.row]
    _, pair = np.unique(np.stack([data.listener, units]), axis=1, return_inverse=True)
    parts = assign(int(pair.max()) + 1, split.validation, split.test, seed)[pair.ravel()]
    trained = np.zeros(len(data.names), bool)
    trained[data.listener[parts == TRAIN]] = True
    parts[~trained[data.listener]] = TRAIN
    return parts


def _leave_one_out(data: Interactions, seed: int) -> NDArray[np.int8]:
    """Of every listener a random entry for TEST, and another one for VALIDATION where two are left."""
    order = np.lexsort((np.random.default_rng(seed).random(len(data)), data.listener))
    _, starts, counts = np.unique(data.listener[order], return_index=True, return_counts=True)
    parts = np.full(len(data), TRAIN, np.int8)
    parts[order[starts[counts > 1]]] = TEST
    parts[order[starts[counts > 2] + 1]] = VALIDATION
    return parts
