"""Splits into training, validation and test. The unit is a recording or more, never one of its ids."""

import numpy as np
from numpy.typing import NDArray

from musix_trainer.data.interactions import Interactions
from musix_trainer.recipe import Split

TRAIN, VALIDATION, TEST = 0, 1, 2


def assign(count: int, validation: float, test: float, seed: int) -> NDArray[np.int8]:
    """Return TRAIN, VALIDATION or TEST for each of `count` units, with exact shares in random order. Shape (count,)."""
    order = np.random.default_rng(seed).permutation(count)
    parts = np.full(count, TRAIN, np.int8)
    first, second = round(count * validation), round(count * test)
    parts[order[:first]] = VALIDATION
    parts[order[first : first + second]] = TEST
    return parts


def split_interactions(data: Interactions, artists: list[str], split: Split, seed: int) -> NDArray[np.int8]:
    """Return the part of each entry. Split by artist, a listener's tracks of one artist are in the same part.

    A listener without any training entry gets all entries in TRAIN. Shape (len(data),).
    """
    if split.by == "leave_one_out":
        return _leave_one_out(data, seed)
    units = data.row
    if split.by == "artist":
        units = np.unique(artists, return_inverse=True)[1][data.row]
    _, pair = np.unique(np.stack([data.listener, units]), axis=1, return_inverse=True)
    parts = assign(int(pair.max()) + 1, split.validation, split.test, seed)[pair.ravel()]
    has_training = np.zeros(len(data.names), bool)
    has_training[data.listener[parts == TRAIN]] = True
    parts[~has_training[data.listener]] = TRAIN
    return parts


def _leave_one_out(data: Interactions, seed: int) -> NDArray[np.int8]:
    """Return a random entry of each listener as TEST, and another one as VALIDATION if two are left."""
    order = np.lexsort((np.random.default_rng(seed).random(len(data)), data.listener))
    _, starts, counts = np.unique(data.listener[order], return_index=True, return_counts=True)
    parts = np.full(len(data), TRAIN, np.int8)
    parts[order[starts[counts > 1]]] = TEST
    parts[order[starts[counts > 2] + 1]] = VALIDATION
    return parts
