"""Overload: three times what a server can answer, for a minute: who is sent away, how fast, what the others get."""

from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np

from perf import client, servers, stream, table
from perf.client import Load
from perf.servers import Server

WAITING = 33  # connections of the closed loop: as many as the server lets wait, and one that is answered
TIMES = 3
CONNECTIONS = 256  # of the overload
FIRST = 10  # seconds that capacity is measured


def measure(server: Server, requests: list[bytes], seconds: float) -> dict[str, Any]:
    """Capacity in a closed loop, then `TIMES` as much on a schedule; memory (RssAnon, MB) before and after it."""
    client.run(server.url, requests, 8, 2000)  # warms up
    most = client.run(server.url, requests, WAITING, 10**6, seconds=min(seconds, FIRST))
    rate = TIMES * most.throughput
    before = server.usage()[0].private
    load = client.run_at(server.url, requests, CONNECTIONS, int(rate * seconds), rate)
    return {
        "capacity": most.throughput,
        "capacity_p95_ms": most.percentile(95),
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
    found = load.latencies[load.statuses == status]
    return float(np.percentile(found, percent)) / 1000 if len(found) else None


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--kind", type=click.Choice(["recommend", "classify"]), default="recommend", show_default=True)
@click.option("--seconds", default=60.0, show_default=True, help="How long.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(bundle: Path, kind: str, seconds: float, json_path: Path | None) -> None:
    """Ask the server of BUNDLE three times as much as it can answer."""
    requests = stream.draw(bundle, 2000).requests(kind)
    with servers.serve(bundle) as server:
        found = measure(server, requests, seconds)
    click.echo(table.grid(("figure", "found"), [(name, table.number(value)) for name, value in found.items()]))
    if json_path:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")


if __name__ == "__main__":
    main()
