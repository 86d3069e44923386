"""Experiment tracking: the recipe, metrics and learning curves of a run in MLflow, if MLFLOW_TRACKING_URI is set.

The experiment has the name of the recipe. Later commands find the run in MLflow by a tag, the hash of its `run.json`,
and add to it.
"""

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from musix_runtime import settings
from musix_runtime.bundle.manifest import numbers
from musix_runtime.errors import InputError
from musix_trainer import progress
from musix_trainer.curves import Point
from musix_trainer.recipe import RecipeFile

RUN, DIGEST, RECIPE = "musix.run_sha256", "musix.digest", "musix.recipe_sha256"  # tags
MAX_METRICS, MAX_PARAMS = 1000, 100  # of one request to MLflow
LEFT_OUT = ".better_by."  # differences to baselines, which follow from the metrics and would be most of them


def check(recipe_file: RecipeFile) -> None:
    """Make the experiment of the recipe, if runs are tracked. Raises InputError if MLflow is missing or unusable."""
    if settings.tracking_uri():
        with _tracker() as client:
            _experiment(client, recipe_file)


def log(
    path: Path,
    recipe_file: RecipeFile,
    card: Mapping[str, Any],
    points: Sequence[Point] = (),
    digest: str | None = None,
) -> None:
    """Log the numbers of a quality card, learning curves and the digest of the bundle, if runs are tracked.

    `path` is the run folder. What MLflow does not take is reported, but does not end a command that has trained.
    """
    if not settings.tracking_uri():
        return
    metrics = [(name, float(value), 0) for name, value in numbers(card) if LEFT_OUT not in name]
    metrics += [(f"{point.part}.{point.metric}", point.value, point.step) for point in points]
    try:
        with _tracker() as client:
            run = _run(client, path, recipe_file)
            _log_metrics(client, run, [each for each in metrics if math.isfinite(each[1])])
            if digest:
                client.set_tag(run, DIGEST, digest)
            client.set_terminated(run)
    except InputError as error:
        progress.say(f"not logged to MLflow: {error}")


@contextmanager
def _tracker() -> Iterator[Any]:
    """Yield the client of MLflow, whose errors become InputError."""
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ModuleNotFoundError as error:
        raise InputError(
            f"MLFLOW_TRACKING_URI: needs {error.name}; install it with: pip install 'musix-edge[mlflow]', or unset it"
        ) from error
    uri = settings.tracking_uri()
    try:
        yield MlflowClient(uri)
    except (MlflowException, OSError) as error:
        raise InputError(f"MLFLOW_TRACKING_URI: expected a store that MLflow can use, found {uri}: {error}") from error


def _experiment(client: Any, recipe_file: RecipeFile) -> str:
    name = recipe_file.recipe.name
    experiment = client.get_experiment_by_name(name)
    return str(experiment.experiment_id if experiment else client.create_experiment(name))


def _run(client: Any, path: Path, recipe_file: RecipeFile) -> str:
    """Return the id of the run in MLflow, a new one with the recipe as parameters if there is none."""
    experiment, label = _experiment(client, recipe_file), recipe_file.recipe.label
    digest = hashlib.sha256((path / "run.json").read_bytes()).hexdigest()
    known = client.search_runs([experiment], f"tags.`{RUN}` = '{digest}'", max_results=1)
    if known:
        return str(known[0].info.run_id)
    run = client.create_run(experiment, run_name=label, tags={RUN: digest, RECIPE: recipe_file.sha256}).info.run_id
    _log_params(client, run, list(_flatten(msgspec.to_builtins(recipe_file.recipe))))
    return str(run)


def _log_params(client: Any, run: str, params: list[tuple[str, str]]) -> None:
    from mlflow.entities import Param

    for start in range(0, len(params), MAX_PARAMS):
        client.log_batch(run, params=[Param(*each) for each in params[start : start + MAX_PARAMS]])


def _log_metrics(client: Any, run: str, metrics: list[tuple[str, float, int]]) -> None:
    from mlflow.entities import Metric

    now = int(1000 * time.time())
    for start in range(0, len(metrics), MAX_METRICS):
        chunk = metrics[start : start + MAX_METRICS]
        client.log_batch(run, metrics=[Metric(name, value, now, step) for name, value, step in chunk])


def _flatten(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
