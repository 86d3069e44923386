"""Protocols: how each figure is measured. A module a part; each function gives PART/PROTOCOL: METRIC: figure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from musix_trainer.evaluation.benchmark import Benchmark
from musix_trainer.evaluation.bootstrap import ClusteredMetric, estimate
from musix_trainer.run import Run

Results = dict[str, dict[str, Any]]  # of one protocol: metric: value, low, high, baselines, better_by


@dataclass(frozen=True)
class EvaluationContext:
    """What shall be measured: the run, over how many seeds, and the table of perceived moods when there is one."""

    run: Run | Benchmark
    seeds: int
    perceived: Path | None

    @property
    def full_run(self) -> Run:
        """The run of all parts."""
        return cast(Run, self.run)

    def seed(self, number: int) -> int:
        """Seed number 0 is the run's own."""
        return self.run.recipe_file.recipe.seed + number

    @property
    def perceived_sha256(self) -> str | None:
        return hashlib.sha256(self.perceived.read_bytes()).hexdigest() if self.perceived else None


class MetricCollector:
    """Tallies by metric and by who answered, gathered over seeds; the first who answers is ours."""

    def __init__(self) -> None:
        self._tallies: dict[str, dict[str, list[ClusteredMetric]]] = {}

    def add(self, metric: str, answers: Mapping[str, ClusteredMetric]) -> None:
        """Add one seed's tallies of a metric."""
        of = self._tallies.setdefault(metric, {})
        for name, tally in answers.items():
            of.setdefault(name, []).append(tally)

    def copy_from(self, metric: str, others: "MetricCollector", name: str) -> None:
        """Add what others gathered of a metric, under another name."""
        self._tallies[metric] = others._tallies[name]

    def results(self) -> Results:
        """A figure a metric."""
        found = {}
        for metric, answers in self._tallies.items():
            own, *others = answers
            found[metric] = estimate(
                ClusteredMetric.merge(answers[own]), {name: ClusteredMetric.merge(answers[name]) for name in others}
            )
            found[metric]["seeds"] = len(answers[own])
        return found
