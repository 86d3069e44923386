"""Load test with Locust of a server of a bundle. The exit code is 1 when the P95 is above the gate."""

import subprocess
import sys
from pathlib import Path

import click

from perf import servers

LOCUST = Path(sys.executable).with_name("locust")
FILE = Path(__file__).with_name("locustfile.py")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--seconds", default=60, show_default=True, help="How long.")
@click.option("--users", default=50, show_default=True, help="Listeners at once.")
@click.option("--p95-ms", default=100.0, show_default=True, help="Largest P95 that passes.")
@click.option(
    "--html", type=click.Path(path_type=Path), default="build/perf/locust.html", show_default=True, help="Report."
)
def main(bundle: Path, seconds: int, users: int, p95_ms: float, html: Path) -> None:
    """Serve BUNDLE, send requests of simulated listeners, and compare the P95 with the gate."""
    html.parent.mkdir(parents=True, exist_ok=True)
    with servers.serve(bundle) as server:
        command = [LOCUST, "-f", FILE, "--headless", "--only-summary", "--host", server.url, "--bundle", bundle]
        command += ["--users", users, "--spawn-rate", users, "--run-time", f"{seconds}s", "--html", html]
        done = subprocess.run([str(item) for item in [*command, "--p95-ms", p95_ms]], check=False)
    click.echo(html)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
