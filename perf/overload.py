"""Overload test: three times the capacity of a server for a minute; rejections, their latency, and other requests."""

from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np

from perf import client, markdown, servers, workload
from perf.client import Load
from perf.servers import Server

WAITING = 33  # connections of the closed loop: a full queue, and one request that is answered
TIMES = 3
CONNECTIONS = 256  # of the overload
CAPACITY_S = 10  # duration of the measurement of the capacity


def measure(server: Server, requests: list[bytes], seconds: float) -> dict[str, Any]:
    """Return figures of a closed loop, then of `TIMES` its rate on a schedule, and the memory (RssAnon, MB)."""
    client.run(server.url, requests, 8, 2000)  # warms up
    peak = client.run(server.url, requests, WAITING, 10**6, seconds=min(seconds, CAPACITY_S))
    rate = TIMES * peak.throughput
    before = server.usage()[0].private
    load = client.run_at(server.url, requests, CONNECTIONS, int(rate * seconds), rate)
    return {
        "capacity": peak.throughput,
        "capacity_p95_ms": peak.percentile(95),
        "offered": rate,
        "seconds": load.seconds,
        "answered_per_s": load.throughput,
        "served_p50_ms": _ms(load, 200, 50),
        "served_p95_ms": _ms(load, 200, 95),
        "shed": int((load.statuses == 503).sum()),
        "shed_p50_ms": _ms(load, 503, 50),
        "shed_p99_ms": _ms(load, 503, 99),
        "failed": int((~np.isin(load.statuses, (200, 503))).sum()),
        "private_mb_before": before,
        "private_mb_after": server.usage()[0].private,
    }


def _ms(load: Load, status: int, percent: float) -> float | None:
    result = load.latencies[load.statuses == status]
    return float(np.percentile(result, percent)) / 1000 if len(result) else None


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--kind", type=click.Choice(["recommend", "classify"]), default="recommend", show_default=True)
@click.option("--seconds", default=60.0, show_default=True, help="How long.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(bundle: Path, kind: str, seconds: float, json_path: Path | None) -> None:
    """Send three times as many requests as a server of BUNDLE can answer."""
    requests = workload.draw(bundle, 2000).requests(kind)
    with servers.serve(bundle) as server:
        result = measure(server, requests, seconds)
    click.echo(markdown.grid(("figure", "found"), [(name, markdown.number(value)) for name, value in result.items()]))
    if json_path:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")


if __name__ == "__main__":
    main()
