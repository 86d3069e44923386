"""Profile of the stages of an answer, of the engine alone, in one thread."""

from pathlib import Path
from time import perf_counter
from typing import Any

import click
import msgspec
import numpy as np

from musix_runtime import Engine
from musix_runtime.models.arrays import Scores
from musix_runtime.schemas import RecommendRequest
from musix_runtime.timing import RECOMMEND_STAGES, StageTimer
from perf import markdown, workload
from perf.workload import BATCH_SIZE

STAGES = (*RECOMMEND_STAGES, "JSON")
WARM_UP = 200


def times(engine: Engine, requests: list[RecommendRequest]) -> Scores:
    """Return the microseconds of each stage of each answer, after a warm-up. Shape (requests, stages)."""
    for request in requests[:WARM_UP]:
        engine.recommend(request)
    return np.array([_stages(engine, request) for request in requests]) * 1e6


def _stages(engine: Engine, request: RecommendRequest) -> list[float]:
    stages = StageTimer()
    msgspec.json.encode(engine.recommend(request, stages))
    stages.mark("JSON")
    return [stages.seconds[name] for name in STAGES]


def figures(times: Scores) -> dict[str, float]:
    """Return median and 95th percentile of times in microseconds."""
    return {"p50_us": float(np.median(times)), "p95_us": float(np.percentile(times, 95))}


def measure(bundle: Path, count: int) -> dict[str, Any]:
    """Return all figures of a bundle."""
    engine = Engine.open(bundle)
    asked, classify = workload.draw(bundle, max(count, BATCH_SIZE)).typed()
    stages = times(engine, asked[:count])
    columns = zip((*STAGES, "whole"), [*stages.T, stages.sum(axis=1)], strict=True)
    result: dict[str, Any] = {"recommend": {name: figures(column) for name, column in columns}}
    result["classify"] = figures(np.array([_timed(lambda: engine.classify(item)) for item in classify]) * 1e6)  # noqa: B023
    batches = [_timed(lambda: engine.classify_batch(classify[:BATCH_SIZE])) for _ in range(20)]
    result["batch_tracks_per_s"] = BATCH_SIZE / float(np.median(batches))
    return result


def _timed(call: Any) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--count", default=3000, show_default=True, help="Questions.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(bundle: Path, count: int, json_path: Path | None) -> None:
    """Show the time of each stage of the answers of BUNDLE, in microseconds."""
    result = measure(bundle, count)
    rows = [*result["recommend"].items(), ("classify", result["classify"])]
    shown = [(name, markdown.number(of["p50_us"]), markdown.number(of["p95_us"])) for name, of in rows]
    click.echo(markdown.grid(("stage", "P50 us", "P95 us"), shown))
    click.echo(f"\nBatches of 1,000 tracks: {result['batch_tracks_per_s']:,.0f} tracks/s.")
    if json_path:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")


if __name__ == "__main__":
    main()
