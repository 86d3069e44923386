"""The command `musix`: the group of all commands. Other packages add theirs by entry point."""

import io
import os
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from musix_runtime import settings
from musix_runtime.cli import bundle, queries, registry, serve
from musix_runtime.cli.output import print_status
from musix_runtime.errors import InputError, MusixError

MAX_SUMMARY = 500  # characters of a command's summary in `musix --help`


class Commands(click.Group):
    """A group with its own commands and those of the entry-point group `musix.commands`, which are loaded when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_entry_points()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in _entry_points():
            return own
        command = _entry_points()[cmd_name].load()
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
            extras = _entry_points()[ctx.invoked_subcommand].extras if ctx.invoked_subcommand in _entry_points() else []
            if not extras or (error.name or "").partition(".")[0] in sys.stdlib_module_names:
                raise
            install = f"install it with: pip install 'musix-edge[{','.join(extras)}]'"
            raise InputError(f"musix {ctx.invoked_subcommand}: needs {error.name}; {install}") from error


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="musix.commands")}


def main() -> None:
    """Run the command. A MusixError becomes one sentence on standard error and its exit code."""
    settings.disable_telemetry()
    settings.limit_blas_threads()
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that is not UTF-8 shows "?" for other characters
    try:
        musix(standalone_mode=False)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.Abort:
        print_status("stopped", error=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except MusixError as error:
        print_status(f"error: {error}", error=True)
        sys.exit(error.exit_code)
    except OSError as error:  # of a file that no command checks, such as standard output
        place = error.filename or "standard output"
        advice = "check that it exists, that you may use it, and that its disk has room"
        print_status(f"error: {place}: expected one that can be used, found: {error.strerror}; {advice}", error=True)
        sys.exit(2)


def _open_missing_streams() -> None:
    """Open the null device for a standard stream that was closed (`>&-`): else sockets would get its descriptor."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_WRONLY)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="musix-edge")
def musix() -> None:
    """Train, export and serve music recommendations in one verified bundle."""


for _command in (
    *(bundle.verify, bundle.pack, bundle.unpack, bundle.keygen, bundle.sign, bundle.inspect, bundle.diff),
    *(queries.classify, queries.recommend, queries.similar),
    *(registry.publish, registry.versions, registry.rollback, registry.gc),
    serve.serve,
):
    musix.add_command(_command)
