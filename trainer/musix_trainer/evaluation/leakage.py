"""Data-leakage checks, which protocols run before they report a metric. Each raises an error with an example."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musix_runtime.errors import EvaluationError, LeakError
from musix_runtime.models.arrays import Rows
from musix_trainer.data.interactions import Interactions
from musix_trainer.data.tables import text_codes
from musix_trainer.data.tracks import Tracks, recordings


def check_recordings(catalogue: Tracks, train: Rows, test: Rows) -> None:
    """Raise LeakError if a recording is in training and test under any id: same title and artist, or same audio."""
    groups = recordings(catalogue.frame, catalogue.inputs)
    _check_disjoint("recording", groups, train, test, catalogue.frame["track_id"].to_list())


def check_artists(artists: list[str], train: Rows, test: Rows) -> None:
    """Raise LeakError if a primary artist is in training and test."""
    codes = text_codes(artists)
    _check_disjoint("artist", codes, train, test, artists)


def check_credited_artists(artists: list[list[str]], train: Rows, test: Rows) -> None:
    """Raise LeakError if an artist that is credited for a test row is credited in training too."""
    learned = {name for row in train.tolist() for name in artists[row]}
    leaked = [name for row in test.tolist() for name in artists[row] if name in learned]
    if leaked:
        raise LeakError(
            f"expected no artist in both training and test, found {len(leaked):,} credits of {len(test):,} test rows"
            f" whose artist is in training, such as {leaked[0]!r}"
        )


def _check_disjoint(kind: str, groups: NDArray[Any], train: Rows, test: Rows, names: list[str]) -> None:
    leaked = np.isin(groups[test], groups[train])
    if leaked.any():
        example = names[int(test[leaked.argmax()])]
        raise LeakError(
            f"expected no {kind} in both training and test, found {int(leaked.sum()):,} of {len(test):,} test rows"
            f" whose {kind} is in training, such as {example!r}"
        )


def check_held_out(train: Interactions, test: Interactions) -> None:
    """Raise LeakError if a pair of listener and track is in training and test, EvaluationError if test is empty."""
    if not len(test):
        raise EvaluationError("expected held-out interactions, found none")
    size = int(max(train.row.max(initial=0), test.row.max())) + 1
    leaked = np.isin(test.listener * size + test.row, train.listener * size + train.row)
    if leaked.any():
        raise LeakError(
            f"expected no pair of listener and track in both training and test, found {int(leaked.sum()):,} of"
            f" {len(test):,}, such as listener {test.names[int(test.listener[leaked.argmax()])]!r}"
        )


def check_listeners(train: Interactions, test: Interactions) -> None:
    """Raise LeakError if a listener of `test` is in training under the same name."""
    names = {train.names[listener] for listener in np.unique(train.listener).tolist()}
    leaked = [name for each in np.unique(test.listener).tolist() if (name := test.names[each]) in names]
    if leaked:
        raise LeakError(f"expected no listener in both training and test, found {len(leaked):,}, such as {leaked[0]!r}")


def check_times(train: Interactions, test: Interactions) -> None:
    """Raise LeakError if a training interaction is not older than every test interaction."""
    later = train.last >= test.last.min()
    if later.any():
        raise LeakError(
            f"expected only training interactions before those of the test, found {int(later.sum()):,} of"
            f" {len(train):,} others, such as one of listener {train.names[int(train.listener[later.argmax()])]!r}"
        )


def check_unheard(train: Interactions, rows: Rows) -> None:
    """Raise LeakError if a track that nobody should have heard is in training. `rows` are those of the tracks."""
    leaked = np.intersect1d(train.row, rows)
    if len(leaked):
        raise LeakError(
            f"expected no interaction with the held-out tracks in training, found some with {len(leaked):,} of"
            f" {len(rows):,}, such as row {int(leaked[0])}"
        )


def check_relevance(relevant: Mapping[int, set[int]], test: Interactions) -> None:
    """Raise LeakError if a relevant row is not in the listener's test interactions, as if it came from a prediction.

    `relevant`: rows by listener number in `test`. Raises EvaluationError when a set is empty.
    """
    held_out: dict[int, set[int]] = {}
    for listener, row in zip(test.listener.tolist(), test.row.tolist(), strict=True):
        held_out.setdefault(listener, set()).add(row)
    if not relevant or not all(relevant.values()):
        raise EvaluationError("expected relevant tracks for every listener, found an empty set")
    for listener, rows in relevant.items():
        wrong = rows - held_out.get(listener, set())
        if wrong:
            raise LeakError(
                f"listener {test.names[listener]!r}: expected only held-out tracks to be relevant, found"
                f" {len(wrong)} of {len(rows)} other tracks: relevance from a prediction"
            )


def check_trials(trials: Mapping[str, int], own: str, baselines: list[str]) -> None:
    """Raise EvaluationError if a baseline was tuned with fewer trials than the model `own`."""
    required = trials.get(own, 0)
    fewer = {name: trials.get(name, 0) for name in baselines if trials.get(name, 0) < required}
    if fewer:
        counts = ", ".join(f"{name}: {count}" for name, count in fewer.items())
        raise EvaluationError(f"expected every baseline to have the {required} trials that {own} had, found {counts}")
