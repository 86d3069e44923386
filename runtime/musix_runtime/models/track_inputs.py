"""Track inputs: what requests tell of their tracks, completed from the catalogue, as the inputs of the genre model."""

from collections.abc import Sequence

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

    Raises RequestError for texts that are too long and for neither features nor id, UnknownTrackError for an id that is
    not in the catalogue and without features.
    """
    _check_texts(requests, paths)
    rows = catalog.rows([request.track_id or "" for request in requests])
    inputs = catalog.inputs[rows]
    inputs[rows == ABSENT] = np.nan
    artists: list[Sequence[str]] = []
    titles: list[str] = []
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
        if request.artists is not None:
            artists.append(request.artists)
        else:
            artists.append([] if row == ABSENT else catalog.artists[row].split(";"))
        if request.name is not None:
            titles.append(request.name)
        else:
            titles.append("" if row == ABSENT else catalog.names[row])
    return inputs, artists, titles


def _check_texts(requests: Sequence[ClassifyRequest], paths: list[str]) -> None:
    """Raise RequestError when artists and names are so long that to read them takes long."""
    total = 0
    for count, (request, path) in enumerate(zip(requests, paths, strict=True), 1):
        length = text_length([*(request.artists or ()), request.name or ""])
        if length > MAX_TRACK_TEXT:
            message = f"expected at most {MAX_TRACK_TEXT:,} characters in all artists and the name, found {length:,}"
            raise RequestError([FieldError(f"{path.removesuffix('trackId')}artists", message)])
        total += length
        if total > MAX_BATCH_TEXT:  # at once, as measuring the others takes long too
            found = f"found {total:,} in the first {count:,} tracks"
            message = f"expected at most {MAX_BATCH_TEXT:,} characters in all artists and names, {found}"
            raise RequestError([FieldError("$", message)])
