"""Gates: baselines that every bundle must reach, and the recipe's quality limits and resource budgets."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from musix_exporter import resource_usage
from musix_runtime.bundle.manifest import Manifest
from musix_runtime.bundle.reader import Bundle
from musix_runtime.engine import Engine
from musix_runtime.errors import GateError, RecipeError
from musix_trainer.pipeline import inapplicable_keys
from musix_trainer.quality import nearest
from musix_trainer.recipe import Gates, Section

FLOOR_SHARE = 0.98  # of a baseline, which a metric must reach

Bound = Literal["at least", "at most"]


class Gate(msgspec.Struct, frozen=True):
    """A figure and its limit. `found` is None when the host cannot measure it, or when it is of another variant of the
    models than the one that was built, such as another teacher of moods: then the gate passes, as skipped."""

    name: str
    found: float | None
    bound: Bound
    allowed: float
    passed: bool


def measure(bundle: Bundle, gates: Gates) -> list[Gate]:
    """Measure every gate of the recipe. Raises RecipeError for a key that the bundle's quality card does not have."""
    manifest = bundle.manifest
    return [
        *_quality(manifest, gates.at_least, "at least"),
        *_quality(manifest, gates.at_most, "at most"),
        *_bytes(manifest, gates),
        *_memory(bundle, gates),
        *_time(bundle, gates),
    ]


def floors(manifest: Manifest, baselines: Mapping[str, str]) -> list[Gate]:
    """Compare metrics of the quality card with those of simple baselines: a model below them is of no use.

    `baselines` has the key of a baseline for each metric. A metric may be 2 % lower, since a small data set cannot tell
    such a difference. Metrics that the card does not have are left out.
    """
    figures = manifest.metrics()
    return [
        _gate(f"{metric} beside {baseline}", figures[metric], "at least", FLOOR_SHARE * figures[baseline])
        for metric, baseline in baselines.items()
        if metric in figures and baseline in figures
    ]


def check(measured: list[Gate], label: str, run: Path) -> None:
    """Raise GateError if a gate failed. The message has each failed gate, its figure and limit, and the run folder."""
    failed = [gate for gate in measured if not gate.passed]
    if failed:
        failures = "; ".join(
            f"{gate.name}: expected {gate.bound} {format_figure(gate.allowed)}, found {format_figure(gate.found)}"
            for gate in failed
        )
        count = f"{len(failed)} of {len(measured)} gates failed"
        way_out = f"the run is in {run}, and musix export makes a bundle of it without gates"
        raise GateError(f"{label}: {count}: {failures}. No bundle was written; {way_out}")


def format_figure(figure: float | None) -> str:
    """Return a figure as text: whole numbers with commas, others with four digits."""
    if figure is None:
        return "not measured"
    return f"{figure:,.0f}" if figure == int(figure) else f"{figure:.4g}"


def _gate(name: str, found: float | None, bound: Bound, allowed: float) -> Gate:
    passed = found is None or (found >= allowed if bound == "at least" else found <= allowed)
    return Gate(name, found, bound, allowed, passed)


def _quality(manifest: Manifest, limits: dict[str, float], bound: Bound) -> Iterator[Gate]:
    figures, inapplicable = manifest.metrics(), inapplicable_keys(manifest.quality)
    for path, allowed in limits.items():
        if path not in figures and path not in inapplicable:
            where = f"{manifest.name}-{manifest.version}: gates.{bound.replace(' ', '_')}: {path!r}"
            raise RecipeError(
                f"{where}: expected a figure of this run's quality card; the nearest are {nearest(path, figures)}"
            )
        yield _gate(path, figures.get(path), bound, allowed)


def _bytes(manifest: Manifest, gates: Gates) -> Iterator[Gate]:
    sizes = manifest.part_bytes()
    for part, allowed in _limits(gates.bytes):
        yield _gate(f"bytes.{part}", sizes[part], "at most", allowed)


def _memory(bundle: Bundle, gates: Gates) -> Iterator[Gate]:
    for name, allowed in _limits(gates.memory):
        yield _gate(f"memory.{name}", resource_usage.private_mb(bundle.path), "at most", allowed)


def _time(bundle: Bundle, gates: Gates) -> Iterator[Gate]:
    limits = dict(_limits(gates.time))
    if limits:
        engine = Engine.open(bundle.path)
        for method, allowed in limits.items():
            yield _gate(f"time.{method}", resource_usage.time_ratio(engine, method), "at most", allowed)


def _limits(section: Section) -> Iterator[tuple[str, float]]:
    """Yield the limits that the recipe sets in a section."""
    for name in section.__struct_fields__:
        allowed = getattr(section, name)
        if allowed is not None:
            yield name, allowed
