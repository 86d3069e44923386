"""What run folders measured: a table of the metrics of their quality cards, side by side."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musix_runtime.bundle.manifest import numbers
from musix_runtime.errors import InputError
from musix_trainer import recipe
from musix_trainer.recipe import Gates

Number = float | int
EVALUATION = "evaluation"  # subfolder of the run that `musix evaluate` writes


@dataclass(frozen=True)
class Summary:
    """A run: its folder, when it was written (seconds of the Unix epoch), the gates of its recipe, and all numbers of
    its quality card by key. Keys of `musix evaluate` begin with "evaluation"."""

    path: Path
    written: float
    gates: Gates
    metrics: Mapping[str, Number]


def find(paths: Sequence[Path]) -> list[Summary]:
    """Return the runs in `paths`, each a run folder or a folder of such, oldest first.

    Raises InputError for a path without a run.
    """
    summaries = []
    for path in paths:
        folders = [path] if (path / "run.json").is_file() else [file.parent for file in path.glob("*/run.json")]
        if not folders:
            raise InputError(f"{path}: expected a run folder or a folder of runs, found no run.json")
        summaries += [_read(folder) for folder in folders]
    return sorted(summaries, key=lambda summary: (summary.written, summary.path))


def _read(path: Path) -> Summary:
    try:
        card = json.loads((path / "run.json").read_bytes())["quality"] | {"evaluation": evaluation(path)}
        settings = recipe.read(path / "recipe.toml").recipe
        return Summary(path, (path / "run.json").stat().st_mtime, settings.gates, dict(numbers(card)))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: expected a complete run folder of this version, found: {error}") from error


def evaluation(path: Path) -> dict[str, Any]:
    """Return the results of `musix evaluate` of the run in `path`, by part, protocol and metric; empty without any."""
    results_by_part: dict[str, Any] = {}
    run = hashlib.sha256((path / "run.json").read_bytes()).hexdigest()
    for file in sorted((path / EVALUATION).glob("*.json")):
        content = json.loads(file.read_bytes())
        if content["key"]["run"] == run:
            for protocol, results in content["results"].items():
                part, _, name = protocol.partition("/")
                results_by_part.setdefault(part, {})[name] = results
    return results_by_part


def keys(runs: Sequence[Summary], every: bool) -> list[str]:
    """Return the keys to show: those with a gate in the recipe of any run, or `every` key. In the order of the cards;
    all keys as well if there is no gate."""
    gated = {key for each in runs for key in (*each.gates.at_least, *each.gates.at_most)}
    known = dict.fromkeys(key for each in runs for key in each.metrics)
    return [key for key in known if every or not gated or key in gated]


def table(runs: Sequence[Summary], every: bool = False) -> list[str]:
    """Return the lines of a table of the runs: a column for each run, a row for each metric."""
    names = keys(runs, every)
    columns = [["metric", *names]]
    columns += [[str(each.path), *(_format(each.metrics.get(name)) for name in names)] for each in runs]
    aligned = []
    for i, column in enumerate(columns):
        width = max(map(len, column))
        aligned.append([cell.rjust(width) if i else cell.ljust(width) for cell in column])
    return ["  ".join(row) for row in zip(*aligned, strict=True)]


def _format(value: Number | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
