"""Mood protocols: agreement with the rule of the training, and with perceived moods. Intervals are over artists."""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeClassifier

from musix_runtime.errors import TableError
from musix_runtime.models.arrays import Floats
from musix_runtime.models.features import AUDIO
from musix_runtime.models.genre import artist_key
from musix_runtime.models.mood import MOODS
from musix_trainer.data import split, tables
from musix_trainer.data.tables import Column
from musix_trainer.data.tracks import title_key
from musix_trainer.evaluation import leakage
from musix_trainer.evaluation.bootstrap import ClusteredMetric
from musix_trainer.evaluation.protocols import EvaluationContext, MetricCollector, Results
from musix_trainer.models import mood

SCHEMA = [
    Column("artist_name", "text"),
    Column("track_name", "text"),
    Column("valence", "number"),
    Column("arousal", "number"),
    Column("split", "text"),
]
HELD_OUT = 0.2
DEPTH = 4  # of the baseline decision trees
QUADRANTS = (  # of valence and arousal above or below 0, in the order of `_quadrants`
    "high_valence_high_arousal",
    "low_valence_high_arousal",
    "low_valence_low_arousal",
    "high_valence_low_arousal",
)
# Share of each quadrant in a mood: energetic music may be joyful or tense, focus is calm with either valence.
QUADRANT_SHARES = {
    "happy": (1, 0, 0, 0),
    "energetic": (0.5, 0.5, 0, 0),
    "sad": (0, 0, 1, 0),
    "calm": (0, 0, 0, 1),
    "focus": (0, 0, 0.5, 0.5),
}


def measure(context: EvaluationContext) -> dict[str, Results]:
    """Run mood/rule, and mood/perceived if there is a table of perceived moods."""
    results = {"mood/rule": _rule(context)}
    if context.perceived:
        results["mood/perceived"] = _perceived(context)
    return results


def _rule(context: EvaluationContext) -> Results:
    """Train a network on four fifths of the recordings with a mood by the rule, and test it on the others.

    A choice is right if it is one of the rule's moods. This shows only that the network reproduces a known rule.
    """
    run, collector = context.full_run, MetricCollector()
    audio = np.ascontiguousarray(run.catalogue.inputs[:, : len(AUDIO)])
    truth = mood.rule(audio)
    rows = np.flatnonzero(truth.any(axis=1))
    clusters = np.unique(run.catalogue.primary_artists(), return_inverse=True)[1]
    for number in range(context.seeds):
        seed = context.seed(number)
        parts = split.assign(len(rows), 0, HELD_OUT, seed)
        train, test = rows[parts == split.TRAIN], rows[parts == split.TEST]
        leakage.check_recordings(run.catalogue, train, test)
        model, _ = mood.train(audio[train], run.recipe.mood, seed)
        tree = DecisionTreeClassifier(max_depth=DEPTH, random_state=seed).fit(audio[train], truth[train].argmax(axis=1))
        chosen = {
            "network": model.probabilities(audio[test]).argmax(axis=1),
            "decision_tree": tree.predict(audio[test]),
            "most_frequent_mood": np.full(len(test), truth[train].sum(axis=0).argmax()),
        }
        right = {name: truth[test, each] for name, each in chosen.items()}
        collector.add("agreement", {name: ClusteredMetric.mean(each, clusters[test]) for name, each in right.items()})
        labels = {name: np.where(right[name], each, truth[test].argmax(axis=1)) for name, each in chosen.items()}
        collector.add(
            "macro_f1",
            {name: ClusteredMetric.macro_f1(each, labels[name], clusters[test]) for name, each in chosen.items()},
        )
    return collector.results()


def _perceived(context: EvaluationContext) -> Results:
    """Measure quadrants of valence and arousal from listeners' tags (Deezer, Delbouys et al. 2018), joined by title and
    artist, on the table's songs outside of its training split; a decision tree is trained on those in it."""
    run, collector = context.full_run, MetricCollector()
    rows, quadrant, training = _join_perceived(context)
    audio = np.ascontiguousarray(run.catalogue.inputs[:, : len(AUDIO)])
    clusters = np.unique(run.catalogue.primary_artists(), return_inverse=True)[1]
    train, test, truth = rows[training], rows[~training], quadrant[~training]
    leakage.check_recordings(run.catalogue, train, test)
    tree = DecisionTreeClassifier(max_depth=DEPTH, random_state=context.seed(0)).fit(audio[train], quadrant[training])
    rule = mood.rule(audio[test]).astype(np.float32)
    chosen = {
        "network": _quadrants(run.mood.probabilities(audio[test])),
        "rule": _quadrants(rule),
        "perceived_mood_tree": tree.predict(audio[test]),
        "most_frequent_quadrant": np.full(len(test), np.bincount(quadrant[training]).argmax()),
    }
    collector.add(
        "macro_f1", {name: ClusteredMetric.macro_f1(each, truth, clusters[test]) for name, each in chosen.items()}
    )
    collector.add(
        "accuracy", {name: ClusteredMetric.mean(each == truth, clusters[test]) for name, each in chosen.items()}
    )
    for i, name in enumerate(QUADRANTS):
        mask = truth == i
        collector.add(
            f"recall_{name}",
            {model: ClusteredMetric.mean(each[mask] == i, clusters[test][mask]) for model, each in chosen.items()},
        )
    return collector.results()


def _quadrants(moods: Floats) -> NDArray[np.int64]:
    return np.asarray((moods @ np.array([QUADRANT_SHARES[mood] for mood in MOODS])).argmax(axis=1))


def _join_perceived(context: EvaluationContext) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return the catalogue rows with a perceived mood, their quadrants, and whether they are training songs.

    Raises TableError for fewer than 50 songs of the catalogue.
    """
    assert context.perceived  # noqa: S101
    source = tables.read(context.perceived)
    tables.check(source, SCHEMA, "track_name")
    frame = source.frame.with_columns(
        key=pl.struct("track_name", "artist_name").map_elements(
            lambda song: f"{title_key(song['track_name'])}\n{artist_key(song['artist_name'])}", return_dtype=pl.String
        )
    ).unique("key", keep="first", maintain_order=True)
    names = zip(
        context.full_run.catalogue.frame["track_name"], context.full_run.catalogue.primary_artists(), strict=True
    )
    keys = pl.DataFrame({"key": [f"{title_key(title)}\n{artist}" for title, artist in names]}).with_row_index("row")
    both = keys.unique("key", keep="first", maintain_order=True).join(frame, on="key", maintain_order="left")
    if both.height < 50:
        raise TableError(f"{source.name}: expected at least 50 songs of the catalogue, found {both.height}")
    positive, excited = both["valence"].to_numpy() > 0, both["arousal"].to_numpy() > 0
    quadrant: Any = np.select([positive & excited, ~positive & excited, ~positive & ~excited], [0, 1, 2], 3)
    return both["row"].to_numpy().astype(np.int64), quadrant, (both["split"] == "train").to_numpy()
