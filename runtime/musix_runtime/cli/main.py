"""The command `musix`. The commands that need only a bundle are here; other packages add theirs by entry point."""

import io
import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from musix_runtime import settings
from musix_runtime.cli import registry
from musix_runtime.errors import InputError, MusixError
from musix_runtime.formatting import shown

if TYPE_CHECKING:
    from musix_runtime.bundle.reader import Bundle
    from musix_runtime.engine import Engine

BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))
TRUST = registry.TRUST
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

MAX_SUMMARY = 500  # characters of a command's summary in `musix --help`


class Commands(click.Group):
    """A group with its own commands and those of the entry-point group `musix.commands`, which are loaded when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_added()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in _added():
            return own
        command = _added()[cmd_name].load()
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first sentence of each command in full; click would cut off a long one."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(limit=MAX_SUMMARY)) for name, command in commands if command]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            extras = _added()[ctx.invoked_subcommand].extras if ctx.invoked_subcommand in _added() else []
            if not extras or (error.name or "").partition(".")[0] in sys.stdlib_module_names:
                raise
            install = f"install it with: pip install 'musix-edge[{extras[0]}]'"
            raise InputError(f"musix {ctx.invoked_subcommand}: needs {error.name}; {install}") from error


def _added() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="musix.commands")}


def main() -> None:
    """Run the command. A MusixError becomes one sentence on standard error and its exit code."""
    settings.disable_telemetry()
    settings.limit_blas_threads()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that is not UTF-8 shows "?" for other characters
    try:
        musix(standalone_mode=False)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except MusixError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # of a file that no command checks, such as standard output
        click.echo(f"error: {error.filename or 'output'}: expected to be usable, found: {error.strerror}", err=True)
        sys.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="musix-edge")
def musix() -> None:
    """Train, export and serve music recommendations in one verified bundle."""


for _command in (registry.publish, registry.rollback, registry.gc):
    musix.add_command(_command)


@musix.command()
@BUNDLE
@TRUST
def verify(bundle: Path, trust: Path | None) -> None:
    """Verify every file of BUNDLE and replay all golden cases."""
    from musix_runtime import golden

    engine = _open(bundle, trust)
    manifest, cases = engine.bundle.manifest, engine.golden()
    errors = golden.replay(engine, cases)
    total = sum(file.bytes for file in manifest.files.values())
    click.echo(f"{bundle}: ok, {len(manifest.files)} files, {total:,} bytes{', signature trusted' if trust else ''}")
    largest = ", ".join(f"{part} {error:.1e}" for part, error in errors.items())
    click.echo(f"{len(cases.classify)} classify and {len(cases.recommend)} recommend cases, largest errors: {largest}")
    click.echo(f"digest {engine.bundle.digest}")


@musix.command()
@BUNDLE
@click.argument("file", required=False, type=click.Path(path_type=Path))
def pack(bundle: Path, file: Path | None) -> None:
    """Pack the folder BUNDLE into one FILE.

    The default is NAME-VERSION.musix beside BUNDLE. A packed file can be served as it is.
    """
    from musix_runtime.models.parts import open_bundle

    opened = open_bundle(bundle)
    target = file or bundle.with_name(f"{opened.name}.musix")
    opened.pack(target)
    click.echo(target)


@musix.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("folder", required=False, type=click.Path(path_type=Path))
def unpack(file: Path, folder: Path | None) -> None:
    """Unpack FILE into a FOLDER.

    The default is NAME-VERSION beside FILE.
    """
    from musix_runtime.models.parts import open_bundle

    opened = open_bundle(file)
    target = folder or file.with_name(opened.name)
    opened.unpack(target)
    click.echo(target)


@musix.command()
@click.argument("path", type=click.Path(path_type=Path))
def keygen(path: Path) -> None:
    """Write an Ed25519 key pair.

    PATH.key is the private key for `musix sign`, PATH.pub the public key for `--trust`.
    """
    from musix_runtime.bundle import signature

    for written in signature.generate(path):
        click.echo(written)


@musix.command()
@BUNDLE
@click.option("--key", required=True, type=click.Path(path_type=Path), help="Private key that `musix keygen` wrote.")
def sign(bundle: Path, key: Path) -> None:
    """Sign the folder BUNDLE with a private key."""
    from musix_runtime.atomic import write_file
    from musix_runtime.bundle import signature
    from musix_runtime.bundle.manifest import SIGNATURE
    from musix_runtime.models.parts import open_bundle

    opened = open_bundle(bundle)
    if not bundle.is_dir():
        raise InputError(f"{bundle}: expected a bundle folder to sign, found a file; sign first, then pack")
    content = signature.sign(opened.digest, key)
    write_file(bundle / SIGNATURE, content, beside=bundle.with_name(f"{bundle.name}.signature"))
    click.echo(bundle / SIGNATURE)


@musix.command()
@BUNDLE
@AS_JSON
def inspect(bundle: Path, as_json: bool) -> None:
    """Show counts, sizes, quality and origin of BUNDLE."""
    from musix_runtime.models.parts import open_bundle

    opened = open_bundle(bundle)
    if as_json:
        _print_json({"digest": opened.digest, "manifest": opened.manifest})
        return
    print_card(opened)
    click.echo(f"\ndigest {opened.digest}")


@musix.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@AS_JSON
def diff(first: Path, second: Path, as_json: bool) -> None:
    """Show what changed between two bundles.

    Compares versions, data, labels, sizes, quality, and the answers of FIRST and SECOND to the same requests.
    """
    from musix_runtime.inspection.diff import diff as compare

    found = compare(_open(first), _open(second))
    if as_json:
        _print_json(found)
        return
    for line in found.lines():
        click.echo(line)


@musix.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port; 0 takes a free one.",
)
@click.option(
    "--workers", type=click.IntRange(1), help="Number of worker processes.  [default: $WEB_CONCURRENCY, else 1]"
)
@click.option("--access-log", is_flag=True, help="Print one line of JSON for every request.")
@click.option(
    "--snapshot", is_flag=True, help="Serve a private copy in the temporary folder, so that PATH may be overwritten."
)
@TRUST
def serve(
    path: Path, host: str, port: int, workers: int | None, trust: Path | None, access_log: bool, snapshot: bool
) -> None:
    """Serve a bundle or registry over HTTP.

    PATH is a bundle, or STORE/NAME for the live bundle of a registry (STORE if it has only one name).
    """
    from musix_runtime.cli.serve import serve as serve_path

    serve_path(path, trust, host, port, workers, access_log, snapshot)


@musix.command()
@BUNDLE
@click.argument("track_id", required=False)
@click.option("--features", help='The 12 audio features as JSON: {"danceability": 0.5, ...}, or @FILE.')
@click.option("--artist", "artists", multiple=True, help="Name of an artist; repeat it for several.")
@click.option("--name", help="Title of the track.")
@click.option("--duration-ms", type=int, help="Length in milliseconds.")
@click.option("--popularity", type=float, help="Popularity, 0 to 100.")
@click.option("--explicit/--not-explicit", default=None, help="Whether the lyrics are explicit.")
@AS_JSON
def classify(bundle: Path, track_id: str | None, features: str | None, as_json: bool, **given: Any) -> None:
    """Predict genre and mood of a track.

    The track is TRACK_ID of the catalogue, or one described by --features.
    """
    from musix_runtime.schemas import ClassifyRequest

    given["artists"] = list(given["artists"]) or None
    raw = {_camel(key): value for key, value in given.items()}
    raw |= {"trackId": track_id, "audioFeatures": _json_argument(features)}
    response = _open(bundle).classify(_request(raw, ClassifyRequest))
    if as_json:
        _print_json(response)
        return
    for genre in response.genres:
        click.echo(f"{genre.confidence:6.1%}  {genre.name}")
    moods = sorted(response.mood.probabilities.items(), key=lambda item: -item[1])
    click.echo("mood: " + ", ".join(f"{name} {share:.0%}" for name, share in moods))


@musix.command()
@BUNDLE
@click.argument("user_id")
@click.option("--current", "current_track_id", help="Id of the track that is playing now.")
@click.option("--limit", default=10, show_default=True, help="Number of tracks, 1 to 100.")
@click.option("--exclude", "exclude_ids", multiple=True, help="Id of a track to leave out; repeat it for several.")
@click.option("--history", multiple=True, help="Id of a track that an unknown listener has heard.")
@click.option("--time-range", default="medium_term", show_default=True, help="short_term, medium_term or long_term.")
@click.option("--hour", type=int, help="Hour of the day in UTC, 0 to 23.")
@AS_JSON
def recommend(bundle: Path, hour: int | None, as_json: bool, **given: Any) -> None:
    """Recommend the next tracks to listener USER_ID."""
    from musix_runtime.schemas import RecommendRequest

    raw = {_camel(key): list(value) if isinstance(value, tuple) else value for key, value in given.items()}
    response = _open(bundle).recommend(_request(raw | {"context": {"hour": hour}}, RecommendRequest))
    if as_json:
        _print_json(response)
        return
    click.echo(f"source: {response.source}")
    for track in response.recommendations:
        click.echo(
            f"{track.score:.3f}  {track.artist} - {track.name}  [{', '.join(track.genre)}; {track.mood}]  {track.id}"
        )
        click.echo(f"       {track.reason}")


@musix.command()
@BUNDLE
@click.argument("track_id")
@click.option("--limit", default=10, show_default=True, help="Number of tracks, 1 to 100.")
@AS_JSON
def similar(bundle: Path, track_id: str, limit: int, as_json: bool) -> None:
    """Find the tracks most similar to TRACK_ID."""
    from musix_runtime.schemas import SimilarRequest

    response = _open(bundle).similar(_request({"trackId": track_id, "limit": limit}, SimilarRequest))
    if as_json:
        _print_json(response)
        return
    for track in response.tracks:
        click.echo(f"{track.similarity:.3f}  {track.artist} - {track.name}  {track.id}")


def _open(bundle: Path, trust: Path | None = None) -> "Engine":
    from musix_runtime.engine import Engine

    return Engine.open(bundle, trust)


def _request(raw: dict[str, Any], type_: type[Any]) -> Any:
    from musix_runtime.schemas import parse

    return parse({key: value for key, value in raw.items() if value is not None}, type_)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.title() for word in rest)


def _json_argument(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return msgspec.json.decode(Path(text[1:]).read_bytes() if text.startswith("@") else text)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"--features: expected a JSON object or @FILE, found: {error}") from error


def _print_json(value: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _print_table(title: str, rows: dict[str, Any]) -> None:
    click.echo(f"\n{title}")
    for name, value in _flat(rows):
        click.echo(f"  {name:<44} {shown(value)}")


def _flat(rows: dict[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in rows.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name} ")
        else:
            yield f"{above}{name}", value


def print_card(bundle: "Bundle") -> None:
    """Print the card of a bundle: counts, bytes, parity, quality, origin."""
    manifest = bundle.manifest
    click.echo(f"{manifest.name} {manifest.version}, format {manifest.format_version}")
    _print_table("counts", manifest.counts)
    _print_table("bytes", {name: file.bytes for name, file in manifest.files.items()})
    _print_table("largest error against the native models", manifest.parity)
    for part, card in manifest.quality.items():
        _print_table(f"quality: {part}", card)
    for name, source in manifest.provenance.sources.items():
        simulated = " (simulated)" if source.simulated else ""
        _print_table(f"source: {name}{simulated}, {source.rows:,} rows, SHA-256 {source.sha256[:12]}", source.notes)
    _print_table("packages", manifest.provenance.packages)
