"""Comparison of servers on this machine: speed with the same requests, and differences from the exact responses."""

import statistics
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
import psutil

from musix_trainer import progress
from musix_trainer.run import Run
from perf import client, ground_truth, markdown, scale, servers
from perf import workload as workloads
from perf.client import Load
from perf.ground_truth import GroundTruth
from perf.peers import PEERS, AbsentError, Peer, Place, files
from perf.servers import Server
from perf.workload import Workload

CONNECTIONS = (1, 8, 16, 32)
QUESTIONS = ("recommend", "classify")
BASES = ("native", "floor")  # the other peers are compared with these
ENVIRONMENT = {"ORT_DISABLE_TELEMETRY": "1", "BENTOML_DO_NOT_TRACK": "True", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Bounds:
    """Limits of the measurement of each peer: requests and seconds of a cell, checked requests, timed starts."""

    requests: int
    seconds: float
    checked: int
    starts: int


def measure(peer: Peer, place: Place, workload: Workload, exact: GroundTruth, bounds: Bounds) -> dict[str, Any]:
    """Return the figures of one peer."""
    versions = peer.versions(place)
    probe = workload.requests("recommend")[0]
    starts = []
    for _ in range(bounds.starts - 1):
        with _started(peer, place, probe) as server:
            starts.append(server.cold_start_s)
    with _started(peer, place, probe) as server:
        starts.append(server.cold_start_s)
        result: dict[str, Any] = {"versions": versions, "cold_start_s": statistics.median(starts)}
        for question in QUESTIONS:
            result |= _question(server, peer, question, workload, exact, bounds)
        if peer.name == "floor":
            requests = workload.requests("recommend", "/echo")
            result["echo"] = {str(item): _cell(server, requests, item, bounds) for item in CONNECTIONS}
        if peer.name in ("musix", "native"):
            result["batch"] = _batch(server, workload, bounds)
        private = [item.private for item in server.usage()]
    if peer.name == "musix":
        result["two_workers"] = _two_workers(place, workload, bounds)
    return result | {
        "private_mb": max(private),
        "private_total_mb": sum(private),
        "processes": len(private),
        "files_bytes": sum(path.stat().st_size for path in peer.files(place)),
    }


def _started(peer: Peer, place: Place, probe: bytes) -> AbstractContextManager[Server]:
    port = servers.free_port()
    return servers.start(peer.command(place, port), port, probe, **ENVIRONMENT)


def _question(
    server: Server, peer: Peer, question: str, workload: Workload, exact: GroundTruth, bounds: Bounds
) -> dict[str, Any]:
    """Return the cells of one kind of request, and the accuracy of its responses."""
    requests = workload.requests(question)
    kept = client.run(server.url, requests, 1, bounds.checked, keep=bounds.checked, seconds=bounds.seconds)  # warms up
    _expect_good(kept, f"{peer.name}: {question}")
    result: dict[str, Any] = {question: {str(item): _cell(server, requests, item, bounds) for item in CONNECTIONS}}
    bodies = [kept.answers[i] for i in range(len(kept.statuses))]
    if peer.name == "floor":
        return result
    if question == "classify":
        return result | {"classify_error": exact.classify_error(bodies)}
    return result | {"recall_at_10": exact.recall(bodies), "score_error": exact.score_error(bodies)}


def _cell(server: Server, requests: list[bytes], connections: int, bounds: Bounds) -> dict[str, float]:
    before = server.cpu_seconds()
    load = client.run(server.url, requests, connections, bounds.requests, seconds=bounds.seconds)
    spent = server.cpu_seconds() - before
    _expect_good(load, f"{connections} connections")
    figures = {f"p{percent}_ms": load.percentile(percent) for percent in (50, 95, 99)}
    requests_done = len(load.statuses)
    return {
        "throughput": load.throughput,
        **figures,
        "requests": requests_done,
        "cpu_s_per_1000": 1000 * spent / requests_done,
    }


def _batch(server: Server, workload: Workload, bounds: Bounds) -> dict[str, float]:
    """Return the figures of consecutive batches of 1,000 tracks."""
    load = client.run(server.url, [workload.batch()], 1, max(bounds.requests // 100, 2), seconds=bounds.seconds)
    _expect_good(load, "batch")
    return {"tracks_per_s": load.throughput * workloads.BATCH_SIZE, "p50_ms": load.percentile(50)}


def _two_workers(place: Place, workload: Workload, bounds: Bounds) -> dict[str, Any]:
    """Return the private, resident and proportional memory of two workers. Other processes of the server are small."""
    with servers.serve(place.bundle, workers=2, probe=workload.requests("recommend")[0], **ENVIRONMENT) as server:
        load = client.run(server.url, workload.requests("recommend"), 32, bounds.requests, seconds=bounds.seconds)
        _expect_good(load, "two workers")
        workers = [item for item in server.usage() if item.pid != server.process.pid][:2]
    sizes = {name: [getattr(item, name) for item in workers] for name in ("private", "resident", "proportional")}
    return {"throughput": load.throughput} | {f"{name}_mb": values for name, values in sizes.items()}


def _expect_good(load: Load, where: str) -> None:
    if load.counts().keys() != {200}:
        raise RuntimeError(f"{where}: expected every answer with status 200, found {load.counts()}")


def against(peers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return throughput and P95 as multiples of each base, by peer, kind of request and number of connections."""
    return {
        base: {
            name: {
                question: {
                    item: {
                        key: result[question][item][key] / peers[base][question][item][key]
                        for key in ("throughput", "p95_ms")
                    }
                    for item in result[question]
                }
                for question in QUESTIONS
            }
            for name, result in peers.items()
            if name != base
        }
        for base in BASES
        if base in peers
    }


def compare(place: Place, names: tuple[str, ...], bounds: Bounds) -> dict[str, Any]:
    """Return all figures, as in the JSON file. `absent` has the reasons why peers are not installed or failed."""
    workload = workloads.draw(place.bundle, max(bounds.requests, bounds.checked))
    progress.say("asking the exact engine")
    exact = ground_truth.answers(place.bundle, workload, bounds.checked)
    peers, absent = {}, {}
    for peer in PEERS:
        if peer.name in names:
            progress.say(f"asking {peer.name}")
            try:
                peers[peer.name] = measure(peer, place, workload, exact, bounds)
            except (AbsentError, RuntimeError) as error:
                absent[peer.name] = str(error)
    manifest = msgspec.json.decode((place.bundle / "manifest.json").read_bytes())
    return {
        "bundle": f"{manifest['name']}-{manifest['version']}",
        "counts": manifest["counts"],
        "host": {"cores": psutil.cpu_count(), "python": sys.version.split()[0]},
        "recall_at_10": peers.get("musix", {}).get("recall_at_10"),
        "peers": peers,
        "absent": absent,
        "against": against(peers),
    }


def _place(
    tracks: int | None, users: int | None, bundle: Path | None, run: Path | None, work: Path, python: Path
) -> Place:
    """Return the given bundle, else one of the given size, which is made in `work` unless it exists."""
    if bundle is None:
        if tracks is None or users is None:
            raise click.UsageError("expected --tracks and --users, or --bundle and --run")
        out = work / f"{tracks}x{users}"
        return Place(scale.build(tracks, users, out, work / "models"), out / "native", python)
    if run is None:
        raise click.UsageError("expected --run beside --bundle: the run folder that the bundle was exported from")
    native = work / f"{bundle.name}-native"
    files.write(Run.load(run), native)
    return Place(bundle, native, python)


FOLDER = click.Path(path_type=Path)


@click.command()
@click.option("--tracks", type=click.IntRange(1000), help="Tracks of a simulated bundle.")
@click.option("--users", type=click.IntRange(100), help="Listeners of a simulated bundle.")
@click.option("--bundle", type=FOLDER, help="A built bundle folder in place of a simulated one.")
@click.option("--run", "run_folder", type=FOLDER, help="The run that --bundle was exported from.")
@click.option("--work", type=FOLDER, default=Path("build/perf"), show_default=True, help="Where bundles are kept.")
@click.option("--peers", "names", default=",".join(item.name for item in PEERS), show_default=True, help="Which ones.")
@click.option("--rivals-python", type=FOLDER, default=Path(sys.executable), help="Python that hosts the rivals.")
@click.option("--requests", default=2000, show_default=True, help="Requests of one measurement, at most.")
@click.option("--seconds", default=10.0, show_default=True, help="Seconds of one measurement, at most.")
@click.option("--checked", default=200, show_default=True, help="Answers of each kind that are checked.")
@click.option("--starts", default=3, show_default=True, help="Starts; the median is shown.")
@click.option("--json", "json_path", type=FOLDER, help="Write the figures to this file.")
@click.option("--markdown", "markdown_path", type=FOLDER, help="Write the tables to this file; they are printed too.")
def main(
    tracks: int | None,
    users: int | None,
    bundle: Path | None,
    run_folder: Path | None,
    work: Path,
    names: str,
    rivals_python: Path,
    json_path: Path | None,
    markdown_path: Path | None,
    **bounds: Any,
) -> None:
    """Measure musix and other servers of the same models."""
    unknown = set(names.split(",")) - {item.name for item in PEERS}
    if unknown:
        raise click.UsageError(
            f"--peers: expected {', '.join(item.name for item in PEERS)}, found {', '.join(unknown)}"
        )
    place = _place(tracks, users, bundle, run_folder, work, rivals_python)
    result = compare(place, tuple(names.split(",")), Bounds(**bounds))
    tables = markdown.page(result)
    click.echo(tables)
    if json_path:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    if markdown_path:
        markdown_path.write_text(tables)


if __name__ == "__main__":
    main()
