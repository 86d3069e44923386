"""Evaluation protocols, a module for each part. Their functions return results by PART/PROTOCOL and metric."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from musix_runtime.models.arrays import Rows
from musix_trainer.evaluation.benchmark import Benchmark
from musix_trainer.evaluation.bootstrap import ClusteredMetric, estimate
from musix_trainer.run import Run

Results = dict[str, dict[str, Any]]  # of one protocol: by metric value, low, high, baselines, better_by, seeds


@dataclass(frozen=True)
class EvaluationContext:
    """Input of a protocol: the run, the number of seeds, and a table of listening that the run has not seen, if any."""

    run: Run | Benchmark
    seeds: int
    listening: Path | None = None

    @property
    def full_run(self) -> Run:
        """Return the run of all parts; a benchmark has none."""
        return cast(Run, self.run)

    def seed(self, number: int) -> int:
        """Return a seed; number 0 is the run's own."""
        return self.run.recipe_file.recipe.seed + number


def sample(count: int, size: int, seed: int) -> Rows:
    """Return `size` of the numbers below `count`, or all of them if there are fewer, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:size])


class MetricCollector:
    """Metrics by name and model, collected over seeds. The first model is ours, the others are baselines."""

    def __init__(self) -> None:
        self._metrics: dict[str, dict[str, list[ClusteredMetric]]] = {}

    def add(self, metric: str, by_model: Mapping[str, ClusteredMetric]) -> None:
        """Add one seed's values of a metric, by model."""
        collected = self._metrics.setdefault(metric, {})
        for name, value in by_model.items():
            collected.setdefault(name, []).append(value)

    def copy_from(self, metric: str, other: "MetricCollector", name: str) -> None:
        """Add another collector's metric `name` as `metric`."""
        self._metrics[metric] = other._metrics[name]

    def results(self) -> Results:
        """Return the estimate of each metric over all seeds."""
        results = {}
        for metric, by_model in self._metrics.items():
            own, *baselines = by_model
            merged = {name: ClusteredMetric.merge(values) for name, values in by_model.items()}
            results[metric] = estimate(merged[own], {name: merged[name] for name in baselines})
            results[metric]["seeds"] = len(by_model[own])
        return results
