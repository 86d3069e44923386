"""Exclusion: the tracks that must not be in the list of a request."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import RaggedRows, Rows, gather
from musix_runtime.models.index import Mask

SIEVE = (1 << 14) - 1  # last bits of a key, which rule out an exclusion for most candidates


@dataclass(frozen=True, slots=True)
class ExcludedIds:
    """Many excluded tracks of a request: their number, and a function that returns which rows (n,) are among them.

    Hardly any of them is a candidate, so the ids of the candidates are compared instead of looking up all excluded
    ids."""

    count: int
    contain: Callable[[Rows], NDArray[np.bool_]]


class ExclusionFilter:
    """The excluded rows of each request of a batch, and those that do not pass its filters."""

    def __init__(
        self,
        excluded: RaggedRows,
        n_rows: int,
        excluded_ids: Mapping[int, ExcludedIds] | None = None,
        passing: Mapping[int, Mask] | None = None,
    ) -> None:
        self._excluded_ids = excluded_ids or {}
        self._passing = passing or {}
        keys = np.repeat(np.arange(len(excluded.sizes)) * n_rows, excluded.sizes) + excluded.values
        self._keys = np.sort(keys[(excluded.values >= 0) & (excluded.values < n_rows)])
        self._n_rows = n_rows
        self._sieve = np.zeros(SIEVE + 1, bool)
        self._sieve[self._keys & SIEVE] = True

    def allows(self, requests: NDArray[np.int64], rows: Rows) -> NDArray[np.bool_]:
        """Return whether each of the rows (m, n) may be recommended for the `requests` (m,). Shape (m, n)."""
        allowed = np.ones(rows.shape, bool)
        if len(self._keys):
            keys = (rows + (requests * self._n_rows)[:, None]).ravel()
            (suspect,) = self._sieve.take(keys & SIEVE).nonzero()
            keys = keys.take(suspect)
            positions = self._keys.searchsorted(keys)
            allowed.ravel()[suspect] = self._keys.take(positions, mode="clip") != keys
        for i, request in enumerate(requests.tolist() if self._excluded_ids else ()):
            if request in self._excluded_ids:
                allowed[i] &= ~self._excluded_ids[request].contain(rows[i])
        for i, request in enumerate(requests.tolist() if self._passing else ()):
            if request in self._passing:
                allowed[i] &= gather(self._passing[request], rows[i])
        return allowed
