"""The figures of a comparison as Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

Row = Sequence[object]


def page(result: dict[str, Any]) -> str:
    """Return the whole page: overview, a table for each kind of request, memory of two workers, versions."""
    counts, host = result["counts"], result["host"]
    parts = [
        f"### {result['bundle']}: {counts['tracks']:,} tracks, {counts['listeners']:,} listeners"
        f" ({host['cores']} cores, Python {host['python']})",
        grid(OVERVIEW, _overview(result["peers"])),
        *(part for question in ("recommend", "classify") for part in (f"#### {question}", _cells(result, question))),
        *_more(result["peers"]),
        grid(("peer", "versions"), _versions(result["peers"])),
        *(f"Not measured: {name}: {why}" for name, why in result["absent"].items()),
    ]
    return "\n\n".join(parts) + "\n"


OVERVIEW = (
    "peer",
    "recall@10",
    "largest difference: score",
    "classify",
    "cold start s",
    "private MB, largest process",
    "all processes",
    "files MB",
)


def _overview(peers: dict[str, Any]) -> Iterable[Row]:
    for name, of in peers.items():
        right = [of.get("recall_at_10"), of.get("score_error"), of.get("classify_error")]
        sizes = [of["private_mb"], of["private_total_mb"], of["files_bytes"] / 1e6]
        yield [name, *(number(item) for item in [*right, of["cold_start_s"], *sizes])]


def _cells(result: dict[str, Any], question: str) -> str:
    keys = ("throughput", "p50_ms", "p95_ms", "p99_ms", "cpu_s_per_1000")
    bases = list(result["against"])
    over = [f"{what}, x {base}" for base in bases for what in ("throughput", "P95")]
    rows = []
    for name, of in result["peers"].items():
        for item, cell in of[question].items():
            ratios = [result["against"][base].get(name, {}).get(question, {}).get(item, {}) for base in bases]
            shown = [ratio.get(key) for ratio in ratios for key in ("throughput", "p95_ms")]
            rows.append([name, item, *(number(cell[key]) for key in keys), *(number(value) for value in shown)])
    return grid(("peer", "connections", "requests/s", "P50 ms", "P95 ms", "P99 ms", "CPU s/1,000", *over), rows)


def _more(peers: dict[str, Any]) -> Iterable[str]:
    for name, of in peers.items():
        if "batch" in of:
            yield f"Batches of 1,000 tracks, {name}: {of['batch']['tracks_per_s']:,.0f} tracks/s."
        if "echo" in of:
            rates = ", ".join(f"{cell['throughput']:,.0f} at {item}" for item, cell in of["echo"].items())
            yield f"JSON in and out alone, {name}: requests/s by connections: {rates}."
        if "two_workers" in of:
            two = of["two_workers"]
            item = "; ".join(
                f"private {private:.0f}, resident {resident:.0f}, proportional {proportional:.0f}"
                for private, resident, proportional in zip(
                    two["private_mb"], two["resident_mb"], two["proportional_mb"], strict=True
                )
            )
            yield f"Two workers of {name}, MB each: {item}; {two['throughput']:,.0f} recommend/s at 32 connections."


def _versions(peers: dict[str, Any]) -> Iterable[Row]:
    for name, of in peers.items():
        yield [name, ", ".join(f"{package} {version}" for package, version in of["versions"].items())]


def number(value: float | None) -> str:
    """Return a figure with three digits, empty for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def grid(head: Sequence[str], rows: Iterable[Row]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(item) for item in line) + " |" for line in lines)
