"""Attack a server on this machine by connections and by request bodies, one attack after the other."""

import subprocess
import sys
from pathlib import Path

import click

from tests.flood import connections, requests
from tests.flood.measure import measure
from tests.system.servers import MUSIX, serving, worker_pid

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "build" / "demo-1.0.0"
ATTACKS = [*connections.ATTACKS]  # in this order, one at a time
# Short, so that a run need not wait for a minute until idle connections are closed.
SETTINGS = {
    "MUSIX_HEAD_TIMEOUT_S": "1",
    "MUSIX_BODY_TIMEOUT_S": "1",
    "MUSIX_KEEP_ALIVE_S": "2",
    "MUSIX_SEND_TIMEOUT_S": "1",
}


@click.command()
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(0.1, 600), help="Of each attack.")
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="Bundle to serve.  [default: the demo, built if missing]"
)
@click.option("--only", help="Attacks with this in their name.")
def main(seconds: float, bundle: Path | None, only: str | None) -> None:
    """Print the effect of each attack on other clients, memory and descriptors. The exit code is 1 beyond a limit."""
    if bundle is None and not DEMO.exists():
        subprocess.run([MUSIX, "build", ROOT / "bundles" / "demo.toml", "--out", DEMO.parent], check=True)
    with serving(bundle or DEMO, **SETTINGS) as (url, process):
        port = int(url.rpartition(":")[2])
        for attack in ATTACKS:
            if not only or only in attack.name:
                click.echo("\n".join(measure(attack, port, worker_pid(process), seconds).lines()))
    sys.exit(1 if requests.run(bundle or DEMO, 1, only or "") else 0)


if __name__ == "__main__":
    main()
