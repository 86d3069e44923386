"""Arguments and options that several commands share."""

from pathlib import Path

import click

BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))
TRUST = click.option("--trust", type=click.Path(path_type=Path), help="Public key of the bundle's signature.")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
