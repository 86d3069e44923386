"""Splits into training, validation and test. The unit is a recording or more, never one of its ids."""

import numpy as np
from numpy.typing import NDArray

from musix_trainer.data.interactions import Interactions
from musix_trainer.data.tables import text_codes
from musix_trainer.recipe import Split

TRAIN, VALIDATION, TEST, UNUSED = 0, 1, 2, 3


def assign(count: int, validation: float, test: float, seed: int) -> NDArray[np.int8]:
    """Return TRAIN, VALIDATION or TEST for each of `count` units, with exact shares in random order. Shape (count,)."""
    order = np.random.default_rng(seed).permutation(count)
    parts = np.full(count, TRAIN, np.int8)
    first, second = round(count * validation), round(count * test)
    parts[order[:first]] = VALIDATION
    parts[order[first : first + second]] = TEST
    return parts


def assign_by_artist(artists: list[list[str]], validation: float, test: float, seed: int) -> NDArray[np.int8]:
    """Return the part of each track, split by primary artist; `artists` are the keys of its artists, primary first.

    No credited artist of a test track occurs in another part: TRAIN and VALIDATION tracks that would share one with
    TEST are UNUSED. Shape (len(artists),).
    """
    primary = text_codes([each[0] for each in artists])
    parts = assign(int(primary.max()) + 1, validation, test, seed)[primary]
    held_out = {key for each, part in zip(artists, parts.tolist(), strict=True) if part == TEST for key in each}
    shared = np.array([not held_out.isdisjoint(each) for each in artists], bool)
    parts[shared & (parts != TEST)] = UNUSED
    return parts


def split_interactions(data: Interactions, artists: list[str], split: Split, seed: int) -> NDArray[np.int8]:
    """Return the part of each entry. Split by artist, a listener's tracks of one artist are in the same part.

    Playlists, and a listener without any training entry, get all entries in TRAIN. Shape (len(data),).
    """
    if data.playlists:
        known = data.listener < data.listeners
        parts = np.full(len(data), TRAIN, np.int8)
        parts[known] = split_interactions(data.without_playlists(), artists, split, seed)
        return parts
    if split.by == "leave_one_out":
        return _leave_one_out(data, seed)
    if split.before_s is not None:
        return _by_time(data, split.before_s, split.validation)
    units = data.row
    if split.by == "artist":
        units = text_codes(artists)[data.row]
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


def hold_out(data: Interactions, share: float, seed: int) -> NDArray[np.bool_]:
    """Return whether each entry is among the random `share` of its listener's entries. Shape (len(data),)."""
    order = np.lexsort((np.random.default_rng(seed).random(len(data)), data.listener))
    _, starts, counts = np.unique(data.listener[order], return_index=True, return_counts=True)
    held_out = np.zeros(len(data), bool)
    held_out[order] = np.arange(len(data)) - np.repeat(starts, counts) < np.repeat(np.rint(share * counts), counts)
    return held_out


def _by_time(data: Interactions, before: int, validation: float) -> NDArray[np.int8]:
    """Return entries since the time `before` as TEST, and the latest share of the others as VALIDATION."""
    parts = np.where(data.last < before, TRAIN, TEST).astype(np.int8)
    earlier = np.flatnonzero(parts == TRAIN)
    latest = earlier[np.argsort(-data.last[earlier], kind="stable")][: round(len(earlier) * validation)]
    parts[latest] = VALIDATION
    has_training = np.zeros(len(data.names), bool)
    has_training[data.listener[parts == TRAIN]] = True
    parts[(parts == VALIDATION) & ~has_training[data.listener]] = TRAIN
    return parts
