"""Result: what a build came to, for people, for a CI job's page and for programs."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from musix_exporter.gates import Gate, shown
from musix_runtime.bundle.reader import Bundle


class Result(msgspec.Struct, frozen=True):
    """A built bundle and how it stands to its gates. `path` is None when a gate failed, as no bundle was left."""

    label: str
    digest: str
    path: str | None
    passed: bool
    gates: list[Gate]
    sizes: dict[str, int]  # in bytes
    parity: dict[str, float]

    @classmethod
    def of(cls, bundle: Bundle, gates: list[Gate], path: Path) -> "Result":
        """The result of a bundle that shall stand at `path`."""
        manifest, passed = bundle.manifest, all(each.passed for each in gates)
        label = f"{manifest.name}-{manifest.version}"
        place = str(path) if passed else None
        return cls(label, bundle.digest, place, passed, gates, manifest.part_bytes(), manifest.parity)

    def json(self) -> bytes:
        """The result as JSON, a line feed at the end."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def table(self) -> str:
        """The gates as lines for a terminal."""
        lines = [
            f"  {name:<44} {found:>18}   {allowed:<22} {verdict}" for name, found, allowed, verdict in self._rows()
        ]
        return "\n".join(["\ngates: found against allowed", *(lines or ["  the recipe sets none"])])

    def markdown(self) -> str:
        """The result as a page of Markdown."""
        verdict = "built" if self.passed else "not built, a gate failed"
        sizes = [(part, f"{size:,}", _error(self.parity.get(part))) for part, size in self.sizes.items()]
        return "\n\n".join(
            [
                f"# {self.label}: {verdict}",
                f"Digest `{self.digest}`",
                "## Gates",
                _grid(("gate", "found", "allowed", ""), self._rows()) if self.gates else "The recipe sets none.",
                "## Parts",
                _grid(("part", "bytes", "largest error against the native model"), sizes),
                "",
            ]
        )

    def _rows(self) -> list[tuple[str, str, str, str]]:
        return [
            (each.name, shown(each.found), f"{each.bound} {shown(each.allowed)}", _verdict(each)) for each in self.gates
        ]


def _verdict(gate: Gate) -> str:
    if gate.found is None:
        return "skipped"
    return "passed" if gate.passed else "FAILED"


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.2g}"


def _grid(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(each.replace("|", "\\|") for each in line) + " |" for line in lines)
