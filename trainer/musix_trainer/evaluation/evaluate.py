"""Evaluate: every figure by a named protocol, with its interval, beside floors and baselines run in the same process.

What each protocol is stands in the function that measures it. Results are kept in the run's folder as they come, so
that an evaluation that was stopped goes on where it was.
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
from musix_trainer.evaluation.benchmark import Benchmark
from musix_trainer.evaluation.protocols import EvaluationContext, Results, collab, drift, genre, hybrid, mood
from musix_trainer.run import EVALUATION, Run, deterministic

VERSION = 4  # of the protocols: results of another one are measured again

Measure = Callable[[EvaluationContext], dict[str, Results]]
# What is measured in one go, and kept in one file; by the start of the names of its protocols, PART/PROTOCOL.
GROUPS: dict[str, Measure] = {
    "catalogue": drift.measure,
    "genre/known_artists": genre.known_artists,
    "genre/unseen_artists": genre.unseen_artists,
    "genre/five_fold": genre.five_fold,
    "mood": mood.measure,
    "collab": collab.measure,
    "hybrid": hybrid.measure,
}


def evaluate(path: Path, wanted: tuple[str, ...], seeds: int, perceived: Path | None) -> dict[str, Any]:
    """Measure the run in `path` by the wanted protocols (all when none is named), and give PART: PROTOCOL: METRIC.

    Raises InputError for a run or protocol that is none, EvaluationError when a figure would deceive.
    """
    run = load(path)
    context = EvaluationContext(run, seeds, perceived)
    groups = [name for name in GROUPS if not isinstance(run, Benchmark) or name == "collab"]
    chosen = [name for name in groups if not wanted or any(_overlaps(name, each) for each in wanted)]
    unknown = [each for each in wanted if not any(_overlaps(name, each) for name in groups)]
    if unknown:
        raise InputError(f"--protocol: expected one of {', '.join(groups)}, found {', '.join(unknown)}")
    found: dict[str, Any] = {}
    with deterministic():
        for name in chosen:
            for protocol, results in _cached_results(path, name, context).items():
                part, _, of = protocol.partition("/")
                found.setdefault(part, {})[of] = results
    if wanted:
        found = {
            part: kept
            for part, of in found.items()
            if (
                kept := {
                    name: value for name, value in of.items() if any(_selects(each, part, name) for each in wanted)
                }
            )
        }
    return found


def load(path: Path) -> Run | Benchmark:
    """The run in `path`, of either kind."""
    if not (path / "run.json").is_file():
        raise InputError(f"{path}: expected a run folder with run.json, found none")
    source = recipe.read(path / "recipe.toml").recipe.source
    return Benchmark.load(path) if source == "lastfm" else Run.load(path)


def _overlaps(group: str, wanted: str) -> bool:
    return f"{group}/".startswith(f"{wanted}/") or f"{wanted}/".startswith(f"{group}/")


def _selects(wanted: str, part: str, protocol: str) -> bool:
    return f"{part}/{protocol}/".startswith(f"{wanted}/")


def _cached_results(path: Path, group: str, context: EvaluationContext) -> dict[str, Results]:
    """The group's results: those that are there, when they are of this very run and question; else measured now."""
    file = path / EVALUATION / f"{group.replace('/', '.')}.json"
    key = {
        "version": VERSION,
        "seeds": context.seeds,
        "run": hashlib.sha256((path / "run.json").read_bytes()).hexdigest(),
        "perceived": context.perceived_sha256 if group == "mood" else None,
    }
    if file.is_file():
        kept = _read(file)
        if kept["key"] == key:
            progress.say(f"{group}: measured before")
            return kept["results"]
    progress.say(f"{group}: measuring")
    results = GROUPS[group](context)
    check_writable(file.parent)
    write_file(file, msgspec.json.format(msgspec.json.encode({"key": key, "results": results}), indent=2))
    return results


def _read(file: Path) -> dict[str, Any]:
    try:
        kept = json.loads(file.read_bytes())
        return {"key": kept["key"], "results": kept["results"]}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{file}: expected results of musix evaluate, found: {error}; remove it") from error


def table(found: dict[str, Any]) -> str:
    """The results as Markdown: a row a metric, the baselines beside it."""
    lines = ["| protocol | metric | value | 95 % interval | baselines |", "| --- | --- | --- | --- | --- |"]
    for part, of in found.items():
        for protocol, metrics in of.items():
            for metric, each in metrics.items():
                beside = ", ".join(f"{name} {format_value(value)}" for name, value in each["baselines"].items())
                interval = f"{format_value(each['low'])} to {format_value(each['high'])}"
                lines.append(
                    f"| {part}/{protocol} | {metric} | {format_value(each['value'])} | {interval} | {beside} |"
                )
    lines += [
        "",
        *(
            f"{part}/{protocol}: {told}"
            for part, of in found.items()
            for protocol in of
            for told in redundant_components(of[protocol])
        ),
    ]
    return "\n".join(lines)


def redundant_components(metrics: Results) -> list[str]:
    """Which members and components add nothing that could be told from chance, in words."""
    told = []
    for metric in ("macro_f1", "ndcg_at_10"):
        for name, gap in metrics.get(metric, {"better_by": {}})["better_by"].items():
            if name.startswith("without_") and gap["low"] <= 0:
                interval = f"{gap['low']:+.3f} to {gap['high']:+.3f}"
                told.append(f"{metric}: {name} does as well: what it lacks adds {gap['value']:+.3f} ({interval})")
    return told


def format_value(value: float) -> str:
    """A figure with three digits behind the point."""
    return f"{value:.3f}"
