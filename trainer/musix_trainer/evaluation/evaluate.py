"""Evaluation: runs named protocols, whose metrics have intervals and baselines, and caches their results.

The docstring of each protocol's function describes it. Results are stored in the run's folder group by group, so that
an evaluation can be resumed.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from musix_runtime.atomic import check_writable, write_file
from musix_runtime.errors import InputError
from musix_trainer import progress, recipe
from musix_trainer.data import tables
from musix_trainer.evaluation.benchmark import Benchmark
from musix_trainer.evaluation.protocols import (
    EvaluationContext,
    Results,
    cold_tracks,
    collab,
    drift,
    genre,
    held_out_20,
    hybrid,
    lists,
    mood,
    playlists,
    temporal,
)
from musix_trainer.evaluation.protocols.playlists import zero_shot
from musix_trainer.pipeline import deterministic
from musix_trainer.recipe import RecipeFile
from musix_trainer.run import Run
from musix_trainer.runs import EVALUATION

VERSION = 7  # of the protocols; results of another version are measured again

Measure = Callable[[EvaluationContext], dict[str, Results]]
# Protocols that are measured together and stored in one file, by the prefix of their names, PART/PROTOCOL.
GROUPS: dict[str, Measure] = {
    "catalogue": drift.measure,
    "genre/known_artists": genre.known_artists,
    "genre/unseen_artists": genre.unseen_artists,
    "genre/five_fold": genre.five_fold,
    "mood": mood.measure,
    "collab": collab.measure,
    "hybrid": hybrid.measure,
    "lists": lists.measure,
    "playlists": playlists.measure,
    "cold_tracks": cold_tracks.measure,
    "zero_shot": zero_shot.measure,
    "temporal": temporal.measure,
    "held_out_20": held_out_20.measure,
}
# Groups that train again or need data of their own, and are measured only when named.
ON_REQUEST = {"playlists", "cold_tracks", "zero_shot", "temporal", "held_out_20"}
OF_BENCHMARKS = {"collab", "temporal", "held_out_20"}  # groups that a run of collab alone can be measured by


def evaluate(path: Path, protocols: tuple[str, ...], seeds: int, listening: Path | None = None) -> dict[str, Any]:
    """Measure the run in `path` by these protocols, and return part: protocol: metric.

    An empty tuple means all protocols but those `ON_REQUEST`. `listening` is the table of `zero_shot`, and names it.

    Raises InputError for an unknown run or protocol, EvaluationError when a metric cannot be measured.
    """
    run = load(path)
    context = EvaluationContext(run, seeds, listening)
    if listening:
        protocols = (*protocols, "zero_shot")
    groups = [
        name for name in GROUPS if (name in OF_BENCHMARKS if isinstance(run, Benchmark) else name != "held_out_20")
    ]
    chosen = [
        name
        for name in groups
        if any(_overlaps(name, each) for each in protocols) or (not protocols and name not in ON_REQUEST)
    ]
    unknown = [each for each in protocols if not any(_overlaps(name, each) for name in groups)]
    if unknown:
        raise InputError(f"--protocol: expected one of {', '.join(groups)}, found {', '.join(unknown)}")
    by_part: dict[str, Any] = {}
    with deterministic():
        for group in chosen:
            for protocol, results in _cached_results(path, group, context).items():
                part, _, name = protocol.partition("/")
                if not protocols or any(_selects(each, part, name) for each in protocols):
                    by_part.setdefault(part, {})[name] = results
    return by_part


def load(path: Path) -> Run | Benchmark:
    """Return the run of all parts, or the benchmark, in `path`. Raises InputError when it is neither."""
    return Benchmark.load(path) if read_recipe(path).recipe.source == "lastfm" else Run.load(path)


def read_recipe(path: Path) -> RecipeFile:
    """Return the recipe of the run in `path`. Raises InputError when it is no run folder."""
    if not (path / "run.json").is_file():
        raise InputError(f"{path}: expected a run folder with run.json, found none")
    return recipe.read(path / "recipe.toml")


def _overlaps(group: str, wanted: str) -> bool:
    return f"{group}/".startswith(f"{wanted}/") or f"{wanted}/".startswith(f"{group}/")


def _selects(wanted: str, part: str, protocol: str) -> bool:
    return f"{part}/{protocol}/".startswith(f"{wanted}/")


def _cached_results(path: Path, group: str, context: EvaluationContext) -> dict[str, Results]:
    """Return the group's results: stored ones of the same run and settings, else new ones, which are stored."""
    file = path / EVALUATION / f"{group.replace('/', '.')}.json"
    key = {
        "version": VERSION,
        "seeds": context.seeds,
        "run": hashlib.sha256((path / "run.json").read_bytes()).hexdigest(),
    }
    if context.listening and group == "zero_shot":
        key["listening"] = tables.read(context.listening).sha256
    if file.is_file():
        stored = _read(file)
        if stored["key"] == key:
            progress.say(f"{group}: stored results")
            return stored["results"]
    progress.say(f"{group}: measuring")
    results = GROUPS[group](context)
    check_writable(file.parent)
    write_file(file, msgspec.json.format(msgspec.json.encode({"key": key, "results": results}), indent=2))
    return results


def _read(file: Path) -> dict[str, Any]:
    try:
        stored = json.loads(file.read_bytes())
        return {"key": stored["key"], "results": stored["results"]}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{file}: expected results of musix evaluate, found: {error}; remove it") from error


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown, with a row for each metric and its baselines."""
    lines = ["| protocol | metric | value | 95 % interval | baselines |", "| --- | --- | --- | --- | --- |"]
    for part, protocols in results.items():
        for protocol, metrics in protocols.items():
            for metric, each in metrics.items():
                baselines = ", ".join(f"{name} {format_value(value)}" for name, value in each["baselines"].items())
                interval = f"{format_value(each['low'])} to {format_value(each['high'])}"
                lines.append(
                    f"| {part}/{protocol} | {metric} | {format_value(each['value'])} | {interval} | {baselines} |"
                )
    lines += [
        "",
        *(
            f"{part}/{protocol}: {note}"
            for part, protocols in results.items()
            for protocol, metrics in protocols.items()
            for note in redundant_components(metrics)
        ),
    ]
    return "\n".join(lines)


def redundant_components(metrics: Results) -> list[str]:
    """Return a sentence for each base model or component whose removal makes no significant difference."""
    notes = []
    for metric in ("macro_f1", "ndcg_at_10"):
        for name, difference in metrics.get(metric, {"better_by": {}})["better_by"].items():
            if name.startswith("without_") and difference["low"] <= 0:
                interval = f"{difference['low']:+.3f} to {difference['high']:+.3f}"
                gain = f"{difference['value']:+.3f} ({interval})"
                notes.append(f"{metric}: {name} is not significantly worse: the component adds {gain}")
    return notes


def format_value(value: float) -> str:
    """Return the value with three decimal places."""
    return f"{value:.3f}"
