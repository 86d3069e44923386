"""Command-line arguments of the peers."""

import argparse
from pathlib import Path
from typing import Any


def read() -> Any:
    """Return `bundle`, `native` (folders), `host` and `port` of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("native", type=Path)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    return parser.parse_args()
