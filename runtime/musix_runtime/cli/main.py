"""The command `musix`: the group of all commands. Other packages add theirs by entry point."""

import io
import os
import sys

import click

from musix_runtime import settings
from musix_runtime.cli import bundle, experiment, queries, registry, rollout, serve, shadow
from musix_runtime.cli.commands import Commands
from musix_runtime.cli.output import print_status
from musix_runtime.errors import MusixError


def main() -> None:
    """Run the command. A MusixError becomes one sentence on standard error and its exit code."""
    settings.disable_telemetry()
    settings.limit_blas_threads()
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that is not UTF-8 shows "?" for other characters
    try:
        code = musix(standalone_mode=False)  # what `Context.exit` was given, None without
        sys.exit(code)
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


@click.group(cls=Commands, entry_points="musix.commands", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="musix-edge")
def musix() -> None:
    """Train, export and serve music recommendations in one verified bundle."""


for _command in (
    *(bundle.verify, bundle.pack, bundle.unpack, bundle.keygen, bundle.sign, bundle.inspect, bundle.diff),
    *(queries.classify, queries.recommend, queries.similar),
    *(registry.publish, registry.versions, registry.rollback, registry.gc),
    *(experiment.experiment, rollout.rollout, shadow.shadow),
    serve.serve,
):
    musix.add_command(_command)
