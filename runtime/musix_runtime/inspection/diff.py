"""Comparison of two bundles: their manifests, and the answers of their engines to the same requests."""

from collections.abc import Iterator
from difflib import unified_diff
from typing import Any

import msgspec

from musix_runtime.bundle.manifest import Manifest
from musix_runtime.engine import Engine
from musix_runtime.formatting import format_value
from musix_runtime.inspection import drift, outputs
from musix_runtime.inspection.outputs import Measures

Pair = tuple[Any, Any]  # the value in the first and in the second bundle, None for a missing one


class Diff(msgspec.Struct, frozen=True):
    """The differences between two bundles. A section without entries is equal.

    `outputs` has every measure, also those that are 0. `drift` has the drifted audio features, see
    `drift.drifted_features`; it is None when a catalogue has too few tracks.
    """

    equal: bool
    versions: dict[str, Pair]
    recipe: list[str]
    data: dict[str, Pair]
    drift: dict[str, float] | None
    labels: dict[str, Pair]
    counts: dict[str, Pair]
    bytes: dict[str, Pair]
    quality: dict[str, Pair]
    outputs: dict[str, Measures]

    def lines(self) -> Iterator[str]:
        """Yield the differences as lines for a terminal."""
        if self.equal:
            yield "the same bundle, byte for byte"
        for name in ("versions", "recipe", "data", "labels", "counts", "bytes", "quality"):
            section = getattr(self, name)
            yield f"{name}" if section else f"{name}: equal"
            if isinstance(section, dict):
                yield from (f"  {key:<52} {format_value(a)} -> {format_value(b)}" for key, (a, b) in section.items())
            else:
                yield from (f"  {line}" for line in section)
        if self.drift is None:
            yield f"drift: expected at least {drift.MIN_SAMPLES} tracks in both bundles, found fewer"
        else:
            yield "drift" if self.drift else "drift: no audio feature moved"
            yield from (
                f"  {name:<52} KL {format_value(kl)}, above {drift.THRESHOLDS['KL']}" for name, kl in self.drift.items()
            )
        yield "outputs"
        for part, measures in self.outputs.items():
            yield from (f"  {part + ': ' + name:<52} {format_value(value)}" for name, value in measures.items())


def compare(first: Engine, second: Engine) -> Diff:
    """Return the differences between two open bundles."""
    a, b = first.bundle.manifest, second.bundle.manifest
    return Diff(
        equal=first.bundle.digest == second.bundle.digest,
        versions=_versions(first, second),
        recipe=_changed_lines(a.provenance.recipe, b.provenance.recipe),
        data=_pairs(_data(a), _data(b)),
        drift=drift.drifted_features(first.catalog.inputs, second.catalog.inputs),
        labels=_labels(a, b),
        counts=_pairs(a.counts, b.counts),
        bytes=_pairs(a.part_bytes(), b.part_bytes()),
        quality=_pairs(a.metrics(), b.metrics()),
        outputs=outputs.compare(first, second),
    )


def _pairs(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Pair]:
    """Return the keys whose values differ, with both values."""
    pairs = {key: (before.get(key), after.get(key)) for key in {**before, **after}}
    return {key: (was, now) for key, (was, now) in pairs.items() if was != now}


def _versions(first: Engine, second: Engine) -> dict[str, Pair]:
    versions = (_version(bundle.manifest) | {"digest": bundle.digest} for bundle in (first.bundle, second.bundle))
    return _pairs(*versions)


def _version(manifest: Manifest) -> dict[str, Any]:
    provenance = manifest.provenance
    versions = {"name": manifest.name, "version": manifest.version, "git commit": provenance.git_commit}
    return versions | {f"package {name}": version for name, version in provenance.packages.items()}


def _changed_lines(before: str, after: str) -> list[str]:
    lines = list(unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))
    return [line for line in lines[2:] if not line.startswith("@@")]


def _data(manifest: Manifest) -> dict[str, Any]:
    return {
        f"{name}: {key}": value
        for name, source in manifest.provenance.sources.items()
        for key, value in {**source.notes, "rows": source.rows, "SHA-256": source.sha256}.items()
    }


def _labels(a: Manifest, b: Manifest) -> dict[str, Pair]:
    names = {**dict.fromkeys(a.families), **dict.fromkeys(b.families)}
    positions = [{name: i for i, name in enumerate(manifest.families)} for manifest in (a, b)]
    return _pairs(*({f"family {name}": at[name] for name in names if name in at} for at in positions))
