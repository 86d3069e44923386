"""Evidence: the ways in which a request can be incomplete. Training, calibration and measurement each hold all of them.

A request has all 12 audio features; popularity, duration and explicit, artists and title may each be missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import Floats
from musix_runtime.models.features import AUDIO, INPUT_NAMES
from musix_runtime.models.genre import KNOWN_CASE, TITLED_CASE

EXTRAS = INPUT_NAMES[len(AUDIO) :]  # the inputs that a request may lack
ENERGY, POPULARITY, DURATION = (INPUT_NAMES.index(name) for name in ("energy", "popularity", "duration_ms"))


class EvidenceKind(IntEnum):
    """What the names of a track say, as the graph's input `case`: artists before titles."""

    UNKNOWN = 0  # no known artist, and a title without known n-grams
    KNOWN = KNOWN_CASE  # at least one known artist; the title is not read
    TITLED = TITLED_CASE  # no known artist, but a title with known n-grams


# A calibration is of one kind of names and one of inputs; its number is 5 * inputs + names.
NAMES = ("no_names", "known_artist", "title", "unknown_artist", "unknown_artist_and_title")
INPUTS = ("all_inputs", "no_popularity", "no_inputs")
NO_NAMES, KNOWN_ARTIST, TITLE, UNKNOWN_ARTIST, UNKNOWN_ARTIST_AND_TITLE = range(len(NAMES))
ALL_INPUTS, NO_POPULARITY, NO_INPUTS = range(len(INPUTS))
# The kind of names, by `EvidenceKind` and whether there are artist names with known n-grams.
NAMES_OF = np.array([[NO_NAMES, UNKNOWN_ARTIST], [KNOWN_ARTIST, KNOWN_ARTIST], [TITLE, UNKNOWN_ARTIST_AND_TITLE]])
CALIBRATIONS = len(NAMES) * len(INPUTS)


def evidence_kind(known: NDArray[np.bool_], title_logits: Floats) -> NDArray[np.int64]:
    """Return the `EvidenceKind` of each track from whether an artist is `known` (n,) and the title logits
    (n, families), 0 where a title has no known n-gram. Shape (n,)."""
    titled = np.where(title_logits.any(axis=1), EvidenceKind.TITLED, EvidenceKind.UNKNOWN)
    return np.where(known, EvidenceKind.KNOWN, titled)


def calibration_number(kind: NDArray[np.int64], prior: Floats, inputs: Floats) -> NDArray[np.int64]:
    """Return the number of each track's calibration, from its `EvidenceKind` (n,), artist prior (n, families) and
    inputs (n, 15). Shape (n,)."""
    missing = np.isnan(inputs)
    level = missing[:, POPULARITY].astype(np.int64) + missing[:, ENERGY]
    return np.asarray(len(NAMES) * level + NAMES_OF[kind, prior.any(axis=1).astype(np.int64)], np.int64)


def graph_case(calibration: NDArray[np.int64]) -> Floats:
    """Return the graph's input `case` of each track, from the number of its calibration. Shape (n,)."""
    case = {names: kind for kind, row in enumerate(NAMES_OF.tolist()) for names in row}
    return np.array([case[names] for names in range(len(NAMES))], np.float32)[calibration % len(NAMES)]


def has_known_artist(calibration: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether an artist of each track is known, from the number of its calibration. Shape (n,)."""
    return np.asarray(calibration % len(NAMES) == KNOWN_ARTIST)


def hide(inputs: Floats, level: int) -> Floats:
    """Return a copy of inputs (n, 15) in which those are missing that this kind of inputs lacks."""
    hidden = inputs.copy()
    if level == NO_POPULARITY:
        hidden[:, len(AUDIO) :] = np.nan
    elif level == NO_INPUTS:
        hidden[:] = np.nan
    return hidden


def mask(inputs: Floats, share: float, none: float, rng: np.random.Generator) -> Floats:
    """Return a copy of inputs (n, 15) in which some are missing, as in requests.

    The `share` of the rows lacks popularity; four of five of these lack explicit too, and three of five also the
    duration. The share `none` of all rows lacks all inputs.
    """
    masked, drawn = inputs.copy(), rng.random(len(inputs))
    masked[drawn < share, POPULARITY] = np.nan
    masked[drawn < share * 4 / 5, -1] = np.nan
    masked[drawn < share * 3 / 5, DURATION] = np.nan
    masked[drawn > 1 - none] = np.nan
    return masked


@dataclass(frozen=True)
class Cell:
    """What a request of a kind holds: a kind of inputs, artists or not, title or not."""

    inputs: int
    artists: bool
    title: bool

    def restrict(
        self, inputs: Floats, artists: Sequence[Sequence[str]], titles: Sequence[str]
    ) -> tuple[Floats, Sequence[Sequence[str]], Sequence[str]]:
        """Return inputs (n, 15), artists and titles without those that such a request lacks."""
        return (
            hide(inputs, self.inputs),
            artists if self.artists else [[]] * len(artists),
            titles if self.title else [""] * len(titles),
        )


# The kinds of requests that are measured. Of the three inputs that may be missing, "audio" lacks all.
CELLS = {
    "all_inputs": Cell(ALL_INPUTS, artists=True, title=True),
    "names_and_audio": Cell(NO_POPULARITY, artists=True, title=True),
    "title_and_inputs": Cell(ALL_INPUTS, artists=False, title=True),
    "inputs_only": Cell(ALL_INPUTS, artists=False, title=False),
    "audio_only": Cell(NO_POPULARITY, artists=False, title=False),
    "title_only": Cell(NO_INPUTS, artists=False, title=True),
    "artist_only": Cell(NO_INPUTS, artists=True, title=False),
}
