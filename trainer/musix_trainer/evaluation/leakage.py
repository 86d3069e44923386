"""Honesty: what has to hold before a figure is believed. Each check raises and names what it found."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.errors import EvaluationError, LeakError
from musix_runtime.models.arrays import Rows
from musix_trainer.data.interactions import Interactions
from musix_trainer.data.tracks import Tracks, recordings


def check_recordings(catalogue: Tracks, train: Rows, test: Rows) -> None:
    """No recording may stand on both sides, under whatever id: same title and artist, or same audio.

    Raises LeakError.
    """
    groups = recordings(catalogue.frame, catalogue.inputs)
    _expect_apart("recording", groups, train, test, catalogue.frame["track_id"].to_list())


def check_artists(artists: list[str], train: Rows, test: Rows) -> None:
    """No primary artist may stand on both sides. Raises LeakError."""
    codes = np.unique(artists, return_inverse=True)[1]
    _expect_apart("artist", codes, train, test, artists)


def _expect_apart(what: str, groups: NDArray[Any], train: Rows, test: Rows, names: list[str]) -> None:
    both = np.isin(groups[test], groups[train])
    if both.any():
        example = names[int(test[both.argmax()])]
        raise LeakError(
            f"expected no {what} in both training and test, found {int(both.sum()):,} of {len(test):,} test rows whose"
            f" {what} was learned from, such as {example!r}"
        )


def check_held_out(train: Interactions, test: Interactions) -> None:
    """No pair of listener and track may be learned and measured. Raises LeakError, or EvaluationError without pairs."""
    if not len(test):
        raise EvaluationError("expected held-out listening, found none: a metric over nothing is no metric")
    size = int(max(train.row.max(initial=0), test.row.max())) + 1
    both = np.isin(test.listener * size + test.row, train.listener * size + train.row)
    if both.any():
        raise LeakError(
            f"expected no pair of listener and track in both training and test, found {int(both.sum()):,} of"
            f" {len(test):,}, such as listener {test.names[int(test.listener[both.argmax()])]!r}"
        )


def check_relevance(relevant: Mapping[int, set[int]], test: Interactions) -> None:
    """What counts as relevant must be what was heard in the test part, and nothing that a model said.

    `relevant`: for each listener's number in `test`, rows. Raises LeakError, or EvaluationError when a set is empty.
    """
    heard: dict[int, set[int]] = {}
    for listener, row in zip(test.listener.tolist(), test.row.tolist(), strict=True):
        heard.setdefault(listener, set()).add(row)
    if not relevant or not all(relevant.values()):
        raise EvaluationError("expected something relevant for every listener, found an empty set")
    for listener, rows in relevant.items():
        strange = rows - heard.get(listener, set())
        if strange:
            raise LeakError(
                f"listener {test.names[listener]!r}: expected only held-out listening to be relevant, found"
                f" {len(strange)} of {len(rows)} tracks that were not heard: relevance made from a prediction"
            )


def check_trials(trials: Mapping[str, int], own: str, baselines: list[str]) -> None:
    """Every baseline must have been tuned with at least as many trials as our own model. Raises EvaluationError."""
    wanted = trials.get(own, 0)
    poor = {name: trials.get(name, 0) for name in baselines if trials.get(name, 0) < wanted}
    if poor:
        found = ", ".join(f"{name}: {count}" for name, count in poor.items())
        raise EvaluationError(f"expected every baseline to have the {wanted} trials that {own} had, found {found}")
