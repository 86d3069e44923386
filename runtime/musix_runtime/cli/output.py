"""Output on the terminal. Names in a bundle may hold control characters, so everything is printed by this module."""

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click
import msgspec

from musix_runtime.formatting import escape_control_characters, escape_json, format_value

if TYPE_CHECKING:
    from musix_runtime.bundle.reader import Bundle


def print_line(text: object = "", error: bool = False) -> None:
    """Print one line, its control characters escaped; with `error`, on standard error."""
    click.echo(escape_control_characters(str(text)), err=error)


def print_status(text: object, error: bool = False) -> None:
    """Print one line about a server, which goes on when its output is closed or its disk is full."""
    with suppress(OSError):
        print_line(text, error)


def print_json(value: Any) -> None:
    """Print a value as JSON, indented by two."""
    click.echo(escape_json(msgspec.json.format(msgspec.json.encode(value), indent=2).decode()))


def print_card(bundle: "Bundle") -> None:
    """Print the card of a bundle: counts, bytes, parity, quality, provenance."""
    manifest = bundle.manifest
    print_line(f"{manifest.name} {manifest.version}, format {manifest.format_version}")
    _print_table("counts", manifest.counts)
    _print_table("bytes", {name: file.bytes for name, file in manifest.files.items()})
    _print_table("largest error against the native models", manifest.parity)
    for part, card in manifest.quality.items():
        _print_table(f"quality: {part}", card)
    for name, source in manifest.provenance.sources.items():
        simulated = " (simulated)" if source.simulated else ""
        _print_table(f"source: {name}{simulated}, {source.rows:,} rows, SHA-256 {source.sha256[:12]}", source.notes)
    _print_table("packages", manifest.provenance.packages)


def _print_table(title: str, rows: dict[str, Any]) -> None:
    print_line()
    print_line(title)
    for name, value in _flatten(rows):
        print_line(f"  {name:<44} {format_value(value)}")


def _flatten(rows: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in rows.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value
