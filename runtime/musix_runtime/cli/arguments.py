"""Arguments and options that several commands share."""

import math
import os
from pathlib import Path
from typing import Any

import click

from musix_runtime.errors import InputError, StoreError

MAX_SHOWN = 5  # bundles of a registry in a message


class BundlePath(click.Path):
    """Path of a bundle. A registry in its place is wrong input, and the message names the live bundles in it."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if live := _live_bundles(path):
            raise InputError(f"{path}: expected a bundle, found a registry; use {' or '.join(map(str, live))}")
        return path


class NumberRange(click.FloatRange):
    """Numbers of a range; NaN, which click takes for a number of any range, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


def _live_bundles(path: Path) -> list[Path]:
    """Return the paths of live bundles in `path`, which may be REGISTRY/NAME or REGISTRY, else none."""
    try:
        if not path.is_dir() or (path / "manifest.json").exists():
            return []
        from musix_runtime.registry.registry import LIVE, Registry

        if os.path.lexists(path / LIVE):
            folder = path.resolve()
            return [path / Registry(folder.parent).live(folder.name).name]
        registry = Registry(path)
        return [registry.live(name) for name in registry.names()[:MAX_SHOWN]]
    except (StoreError, OSError):  # an entry `live` that is no pointer, or a path that cannot be read
        return []


BUNDLE = click.argument("bundle", type=BundlePath())
TRUST = click.option("--trust", type=click.Path(path_type=Path), help="Public key of the bundle's signature.")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
