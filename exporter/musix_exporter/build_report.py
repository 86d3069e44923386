"""Report of a build: as lines for a terminal, as Markdown for a page of a CI job, and as JSON."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from musix_exporter.gates import Gate, format_figure
from musix_runtime.bundle.reader import Bundle


class BuildReport(msgspec.Struct, frozen=True):
    """A bundle, the run it was made of, and the results of its gates. `path` is None when a gate failed, because the
    bundle was not kept."""

    label: str
    digest: str
    path: str | None
    run: str
    passed: bool
    gates: list[Gate]
    sizes: dict[str, int]  # in bytes
    parity: dict[str, float]

    @classmethod
    def of(cls, bundle: Bundle, gates: list[Gate], path: Path, run: Path) -> "BuildReport":
        """Return the report of a bundle that is kept at `path` if all gates pass, and of its `run` folder."""
        manifest, passed = bundle.manifest, all(gate.passed for gate in gates)
        label = f"{manifest.name}-{manifest.version}"
        kept = str(path) if passed else None
        return cls(label, bundle.digest, kept, str(run), passed, gates, manifest.part_bytes(), manifest.parity)

    def json(self) -> bytes:
        """Return the report as JSON with a line feed at the end."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def lines(self) -> Iterator[str]:
        """Yield a summary for a terminal: sizes, the largest error, and the results of the gates."""
        yield f"{self.label}: {self._verdict()}"
        worst = max(self.parity.values())
        yield f"  {self.sizes['total']:,} bytes; largest error against the native models: {worst:.2g}"
        yield f"  {sum(gate.passed for gate in self.gates)} of {len(self.gates)} gates passed:"
        width = max((len(gate.name) for gate in self.gates), default=0)
        for name, found, allowed, verdict in self._rows():
            yield f"    {name:<{width}} {found:>12}   {allowed:<22} {verdict}"
        yield f"  {f'musix inspect {self.path}' if self.path else f'musix runs --all {self.run}'} shows the whole card"

    def markdown(self) -> str:
        """Return the report as a page of Markdown."""
        sizes = [(part, f"{size:,}", _format_error(self.parity.get(part))) for part, size in self.sizes.items()]
        return "\n\n".join(
            [
                f"# {self.label}: {self._verdict()}",
                f"Digest `{self.digest}`",
                "## Gates",
                _markdown_table(("gate", "found", "allowed", ""), self._rows()) if self.gates else "None.",
                "## Parts",
                _markdown_table(("part", "bytes", "largest error against the native model"), sizes),
                "",
            ]
        )

    def _verdict(self) -> str:
        return "built" if self.passed else "not built, a gate failed"

    def _rows(self) -> list[tuple[str, str, str, str]]:
        return [
            (gate.name, format_figure(gate.found), f"{gate.bound} {format_figure(gate.allowed)}", _verdict(gate))
            for gate in self.gates
        ]


def _verdict(gate: Gate) -> str:
    if gate.found is None:
        return "skipped"
    return "passed" if gate.passed else "FAILED"


def _format_error(error: float | None) -> str:
    return "" if error is None else f"{error:.2g}"


def _markdown_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
