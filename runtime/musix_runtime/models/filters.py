"""Filters of a request: which tracks of the catalogue may be in its list."""

from collections.abc import Sequence
from datetime import date

import numpy as np
from numpy.typing import NDArray

from musix_runtime.errors import FieldError, RequestError, shorten
from musix_runtime.models.catalog import Catalog
from musix_runtime.models.mood import MOODS
from musix_runtime.schemas import Filters


def passing(filters: Filters | None, catalog: Catalog) -> NDArray[np.bool_] | None:
    """Return whether each track passes all the filters, or None if there are none. Shape (tracks,).

    Raises RequestError for names of genres and moods that do not exist.
    """
    if filters is None or filters == Filters():
        return None
    errors = _unknown("genres", filters.genres, catalog.genres) + _unknown("moods", filters.moods, MOODS)
    if errors:
        raise RequestError(errors)
    after = filters.released_after
    return catalog.masks(
        _bits(filters.genres, catalog.genres),
        _bits(filters.moods, MOODS),
        filters.explicit,
        None if after is None else (after - date(1970, 1, 1)).days,
    )


def _unknown(field: str, names: Sequence[str] | None, known: Sequence[str]) -> list[FieldError]:
    expected = f"expected one of {', '.join(known)}, found "
    return [
        FieldError(f"filters.{field}[{i}]", expected + repr(shorten(name)))
        for i, name in enumerate(names or ())
        if name not in known
    ]


def _bits(names: Sequence[str] | None, known: Sequence[str]) -> int | None:
    return None if names is None else sum(1 << i for i, name in enumerate(known) if name in names)
