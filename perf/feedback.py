"""Feedback benchmark: events a second over HTTP, and what recording the lists costs the answers of `recommend`.

The cost is the ratio of two servers, without and with `--feedback`, that are measured in turn in short rounds, each
with one connection that sends the next request when it has the answer. The ratio of processor time counts the thread
that writes as well, and depends less on what else the machine does than the ratio of throughput. Two servers that do
the same differ by up to 5 %, by the order in which they were started: both orders are measured, and their geometric
mean is taken.
"""

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import msgspec
import numpy as np

from perf import client, markdown, servers, workload
from perf.servers import Server

EVENTS = "/api/ml/events"
ACTIONS = ("shown", "played", "skipped", "saved", "clicked")


def draw_events(tracks: Sequence[str], batches: int, size: int, seed: int) -> list[bytes]:
    """Return requests with `size` new events each, of 1,000 users and the tracks, whose ids are random UUIDs."""
    rng = np.random.default_rng(seed)
    now = datetime.now(UTC).isoformat()
    requests = []
    for _ in range(batches):
        events = [
            {
                "eventId": str(UUID(bytes=rng.bytes(16))),
                "userId": f"listener-{rng.integers(1000):03d}",
                "trackId": tracks[int(rng.integers(len(tracks)))],
                "action": ACTIONS[rng.integers(len(ACTIONS))],
                "occurredAt": now,
                "listId": rng.bytes(16).hex(),
                "position": int(rng.integers(1, 11)),
                "sessionId": f"session-{rng.integers(1000):03d}",
                "msPlayed": int(rng.integers(300_000)),
            }
            for _ in range(size)
        ]
        requests.append(client.post(EVENTS, {"sentAt": now, "events": events}))
    return requests


def measure_events(server: Server, tracks: Sequence[str], batches: int, size: int, connections: int) -> dict[str, Any]:
    """Return the events a second that were accepted, and the P95 of a request, over some connections."""
    requests = draw_events(tracks, batches, size, seed=connections)
    load = client.run(server.url, requests, connections, batches, keep=batches)
    accepted = sum(body.count(b'"accepted"') for body in load.answers.values())
    return {
        f"events_per_s_by_{connections}": accepted / load.seconds,
        f"events_p95_ms_by_{connections}": load.percentile(95),
        f"events_accepted_by_{connections}": accepted,
    }


def measure_cost(plain: Server, recording: Server, requests: list[bytes], rounds: int, count: int) -> dict[str, Any]:
    """Return throughput, latency and processor time of both servers, and their ratios: medians of the rounds."""
    loads: dict[str, list[client.Load]] = {"plain": [], "recording": []}
    cpu_ms = dict.fromkeys(loads, 0.0)
    for server in (plain, recording):
        client.run(server.url, requests, 1, count)  # warms up
    for i in range(rounds):
        order = [("plain", plain), ("recording", recording)]
        for name, server in order if i % 2 else reversed(order):
            before = server.cpu_seconds()
            loads[name].append(client.run(server.url, requests, 1, count))
            cpu_ms[name] += 1000 * (server.cpu_seconds() - before)
    pairs = list(zip(loads["plain"], loads["recording"], strict=True))
    figures: dict[str, Any] = {}
    for name, measured in loads.items():
        figures[f"{name}_per_s"] = float(np.median([load.throughput for load in measured]))
        figures[f"{name}_p50_ms"] = float(np.median([load.percentile(50) for load in measured]))
        figures[f"{name}_p95_ms"] = float(np.median([load.percentile(95) for load in measured]))
        figures[f"{name}_cpu_ms"] = cpu_ms[name] / (rounds * count)
    figures["cpu_ratio"] = cpu_ms["recording"] / cpu_ms["plain"]
    figures["throughput_ratio"] = float(np.median([new.throughput / old.throughput for old, new in pairs]))
    figures["p50_ratio"] = float(np.median([new.percentile(50) / old.percentile(50) for old, new in pairs]))
    return figures


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--batches", default=300, show_default=True, help="Requests with events.")
@click.option("--size", default=100, show_default=True, help="Events of a request.")
@click.option("--rounds", default=20, show_default=True, help="Rounds of the comparison.")
@click.option("--count", default=250, show_default=True, help="Recommendations of a server in a round.")
@click.option("--database", help="URL of an empty database; default: SQLite in a temporary folder.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(
    bundle: Path, batches: int, size: int, rounds: int, count: int, database: str | None, json_path: Path | None
) -> None:
    """Measure the feedback store of a server of BUNDLE."""
    requests = workload.draw(bundle, count).requests("recommend")
    tracks = workload.tracks(bundle, 1000)
    with tempfile.TemporaryDirectory(prefix="musix-perf-") as folder:
        url = database or f"sqlite:///{folder}/feedback.db"
        with servers.serve(bundle) as plain, servers.serve(bundle, MUSIX_FEEDBACK=url) as recording:
            orders = [measure_cost(plain, recording, requests, rounds, count)]
        with servers.serve(bundle, MUSIX_FEEDBACK=url) as recording:
            with servers.serve(bundle) as plain:
                orders.append(measure_cost(plain, recording, requests, rounds, count))
            result = {name: float(np.sqrt(orders[0][name] * orders[1][name])) for name in orders[0]}
            for connections in (1, 4):
                result |= measure_events(recording, tracks, batches, size, connections)
    click.echo(markdown.grid(("figure", "found"), [(name, markdown.number(value)) for name, value in result.items()]))
    if json_path:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")


if __name__ == "__main__":
    main()
