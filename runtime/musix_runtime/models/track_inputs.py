"""Track inputs: what requests tell of their tracks, completed from the catalogue, as the inputs of the genre model."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from musix_runtime.errors import FieldError, RequestError, UnknownTrackError
from musix_runtime.models.arrays import ABSENT, Floats
from musix_runtime.models.catalog import Catalog
from musix_runtime.models.features import AUDIO_NAMES, INPUT_NAMES
from musix_runtime.models.genre import MAX_BATCH_TEXT, MAX_TRACK_TEXT, text_length
from musix_runtime.schemas import ClassifyRequest


def track_inputs(
    requests: Sequence[ClassifyRequest], paths: list[str], catalog: Catalog
) -> tuple[Floats, list[Sequence[str]], list[str]]:
    """Return raw inputs (n, 15), artists and titles of the requests; `paths` are the fields of their track ids.

    Texts of the catalogue are cut to `MAX_TRACK_TEXT`. Raises RequestError for texts that are too long and for neither
    features nor id, UnknownTrackError for an id that is not in the catalogue and without features.
    """
    _check_total(_given_lengths(requests, paths))
    rows = catalog.rows([request.track_id or "" for request in requests])
    inputs = catalog.inputs[rows]
    inputs[rows == ABSENT] = np.nan
    artists: list[Sequence[str]] = []
    titles: list[str] = []
    lengths: list[int] = []
    for i, (request, row) in enumerate(zip(requests, rows.tolist(), strict=True)):
        given = request.audio_features
        if row == ABSENT and given is None:
            if request.track_id is None:
                raise RequestError([FieldError(paths[i], "is required when audioFeatures is not given")])
            raise UnknownTrackError(request.track_id, paths[i])
        if given is not None:
            inputs[i, : len(AUDIO_NAMES)] = [getattr(given, name) for name in AUDIO_NAMES]
        for name in INPUT_NAMES[len(AUDIO_NAMES) :]:
            value = getattr(request, name)
            if value is None and name == "duration_ms" and given is not None:
                value = given.duration_ms
            if value is not None:
                inputs[i, INPUT_NAMES.index(name)] = value
        names, title = request.artists, request.name
        if names is None:
            names = [] if row == ABSENT else catalog.artists[row].split(";")
        if title is None:
            title = "" if row == ABSENT else catalog.names[row]
        length = text_length([*names, title])
        if length > MAX_TRACK_TEXT:  # as those of a catalogue may be
            names, title, length = _cut(names, title)
        artists.append(names)
        titles.append(title)
        lengths.append(length)
    _check_total(lengths)
    return inputs, artists, titles


def _cut(artists: Sequence[str], title: str) -> tuple[list[str], str, int]:
    """Return the title and as many artists as `MAX_TRACK_TEXT` allows, and their length."""
    kept: list[str] = []
    total = 0
    for text in (title, *artists):
        length = text_length([text])
        if total + length > MAX_TRACK_TEXT:
            break
        kept.append(text)
        total += length
    return kept[1:], kept[0] if kept else "", total


def _given_lengths(requests: Sequence[ClassifyRequest], paths: list[str]) -> Iterator[int]:
    """Yield the length of the texts of each request. Raises RequestError for one so long that to read it takes long."""
    for request, path in zip(requests, paths, strict=True):
        length = text_length([*(request.artists or ()), request.name or ""])
        if length > MAX_TRACK_TEXT:
            message = f"expected at most {MAX_TRACK_TEXT:,} characters in all artists and the name, found {length:,}"
            raise RequestError([FieldError(f"{path.removesuffix('trackId')}artists", message)])
        yield length


def _check_total(lengths: Iterable[int]) -> None:
    """Raise RequestError when the texts of all tracks are too long: at once, as measuring the others takes long too."""
    total = 0
    for count, length in enumerate(lengths, 1):
        total += length
        if total > MAX_BATCH_TEXT:
            found = f"found {total:,} in the first {count:,} tracks"
            message = f"expected at most {MAX_BATCH_TEXT:,} characters in all artists and names, {found}"
            raise RequestError([FieldError("$", message)])
